"""WeChat Pay APIv3 as a merchant meets it."""
