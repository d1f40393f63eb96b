"""Who is asking, proven how: persons, logins, sessions, guards, staff roles."""
