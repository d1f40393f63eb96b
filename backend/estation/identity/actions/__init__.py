"""What can be changed about persons, logins and staff."""
