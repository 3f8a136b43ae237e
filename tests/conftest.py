"""What every test shares: how many examples Hypothesis tries (`make test-long` sets TESSERA_TEST_EFFORT=long)."""

import os

from hypothesis import HealthCheck, settings

# No deadline and no complaint about slowness: a busy machine makes an example slow, not wrong.
COMMON = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.register_profile("quick", COMMON, max_examples=50)
settings.register_profile("long", COMMON, max_examples=2_000)
settings.load_profile(os.environ.get("TESSERA_TEST_EFFORT", "quick"))
