"""What can be changed at the desk; each action is one transaction incl. its gate rows."""
