"""Settings for all tests."""

from __future__ import annotations

import hypothesis

# How long an example takes is the machine's affair, and no promise of what is tested.
hypothesis.settings.register_profile("pylb", deadline=None)
hypothesis.settings.load_profile("pylb")
