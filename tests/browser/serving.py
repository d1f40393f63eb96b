"""The gallery as a program: citizens' and staff's pages. `python -m tests.browser.serving 8300`."""

import sys

from tests.browser.gallery import create_gallery
from tests.browser.staff_gallery import STAFF_PAGES


def serve(port: int) -> None:
    """Blocks; ended by a signal."""
    create_gallery(STAFF_PAGES).run("127.0.0.1", port, single_process=True, access_log=False)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
