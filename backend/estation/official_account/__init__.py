"""The city's official account at WeChat (公众号): what is said in it, and the way to paying."""
