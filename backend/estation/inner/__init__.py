"""The reference internal platform (内网平台); it meets the online side only in packets."""
