"""Protocol-true servers for what lies outside the city; shares no code with our clients."""
