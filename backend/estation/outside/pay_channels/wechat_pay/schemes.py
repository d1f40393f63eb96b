"""The names of WeChat Pay's two families of algorithms."""

from typing import Final

RSA_SCHEME: Final = "WECHATPAY2-SHA256-RSA2048"
SM_SCHEME: Final = "WECHATPAY2-SM2-WITH-SM3"

AES_GCM: Final = "AEAD_AES_256_GCM"
SM4_GCM: Final = "AEAD_SM4_GCM"
