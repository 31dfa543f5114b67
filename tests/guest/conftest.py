"""The guest's image, made once for a session."""

from __future__ import annotations

import pytest

from tests.guest.image import GuestUnavailableError, Image, build_image
from tests.support.tools import missing


@pytest.fixture(scope="session")
def image() -> Image:
    return built_image()


def built_image(kernel: str = "6.1-cloud") -> Image:
    """The image, or a skip (in CI a failure) that says what it needs."""
    try:
        return build_image(kernel)
    except GuestUnavailableError as error:
        missing(f"the guest cannot run here: {error}")
        raise
