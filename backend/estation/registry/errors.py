"""Every way the registry refuses."""

from estation.shared.errors import NotFound


class UnitNotFound(NotFound):
    """No unit of this code has come here, which does not mean that there is none."""

    code = "unit_not_found"
    message = "没有找到这个不动产单元，请核对单元号后重试。"


class CertificateNotFound(NotFound):
    """No certificate of this number has come here, which does not mean that there is none."""

    code = "certificate_not_found"
    message = "没有找到这本证书或证明，请核对证号后重试。"
