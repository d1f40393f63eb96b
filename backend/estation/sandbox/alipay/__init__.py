"""Alipay's OpenAPI gateway, cashier and bill centre as a merchant meets them."""
