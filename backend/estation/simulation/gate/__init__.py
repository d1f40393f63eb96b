"""Days at the gate: a city, a county and the online platform over lossy media, by seed."""
