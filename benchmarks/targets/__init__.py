"""Every target, in the order of the table."""

from typing import Final

from benchmarks.bench import Target
from benchmarks.targets import (
    followers,
    http,
    kafka,
    large,
    p01_commits,
    p02_library,
    p03_bulk,
    p04_hot_template,
    p05_hot_row,
    p11_latency,
    p13_growth,
    p16_orders,
    profile,
    routes,
    write_path,
)

TARGETS: Final[tuple[Target, ...]] = (
    p01_commits.TARGET,
    p01_commits.OVER_SHARDS,
    p02_library.TARGET,
    p03_bulk.TARGET,
    p04_hot_template.TARGET,
    p05_hot_row.TARGET,
    http.P6,
    http.P7,
    p11_latency.TARGET,
    p11_latency.BY_LOAD,
    p13_growth.TARGET,
    http.P15,
    p16_orders.TARGET,
    routes.TARGET,
    large.DISTRIBUTION,
    large.CODE_BATCH,
    write_path.TARGET,
    profile.TARGET,
    followers.TARGET,
    kafka.TARGET,
)
