"""Pages need their styles and scripts: scripts/test builds them before any test."""

import pytest

from estation.shared.pages import H5


def require_built_pages() -> None:
    """A test that cannot show its pages has failed; it is not left out."""
    if not (H5 / "dist" / ".vite" / "manifest.json").exists():
        pytest.fail("h5/dist is not built: run scripts/build-h5")
