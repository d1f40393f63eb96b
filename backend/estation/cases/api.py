"""What other contexts may ask of cases. Everything else here is private."""

from estation.cases.errors import CaseNotFound
from estation.cases.queries import CaseView, PartyView, StageView, case_of, cases_of

__all__ = ["CaseNotFound", "CaseView", "PartyView", "StageView", "case_of", "cases_of"]
