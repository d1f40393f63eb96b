"""What other contexts may ask of the registry. Everything else here is private."""

from estation.registry.errors import CertificateNotFound, UnitNotFound
from estation.registry.queries import (
    CertificateView,
    HolderView,
    RestrictionView,
    RightView,
    UnitView,
    VersionView,
    certificate_by_number,
    restrictions_of_unit,
    rights_of_holder,
    rights_of_unit,
    unit_by_code,
    versions_of,
)

__all__ = [
    "CertificateNotFound",
    "CertificateView",
    "HolderView",
    "RestrictionView",
    "RightView",
    "UnitNotFound",
    "UnitView",
    "VersionView",
    "certificate_by_number",
    "restrictions_of_unit",
    "rights_of_holder",
    "rights_of_unit",
    "unit_by_code",
    "versions_of",
]
