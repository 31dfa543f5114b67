"""Every number reaches Prometheus under its name, and every name in README.md exists."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from nbdswap.metrics import registry_of
from nbdswap.snapshots import (
    RoomSnapshot,
    ServerSnapshot,
    Snapshot,
    UpgradeCounts,
    write_amplification,
)
from nbdswap.watch import TROUBLES
from tests.unit.fake_core import FakeCore

README = Path(__file__).parents[2] / "README.md"
MARKER = "<!-- metrics table -->"
DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.fixture
def core() -> FakeCore:
    """An engine with a store."""
    store = {"path": "/s", "capacity_bytes": 8 << 20, "key": None, "make_key": True}
    exports = [{"name": "swap", "size_bytes": 1 << 20, "read_only": False, "lost": False}]
    pool = {"zpool": "zblock", "frame_bytes": 4096, "pool_bytes_max": 1 << 20}
    codec = {"codec": "lz4", "codec_level": 1}
    return FakeCore(
        {"exports": exports, "page_bytes": 4096, "store": store} | pool | codec, adopted=False
    )


@pytest.fixture
def server() -> ServerSnapshot:
    """A server that lacks one protection."""
    return ServerSnapshot(
        version="1.2.3",
        ready=True,
        stopping=False,
        uptime_seconds=5.0,
        generation=7,
        handshakes_open=1,
        handshakes_failed_total=2,
        connections_refused_total=3,
        hardening={"lock_memory": True, "io_flusher": False},
        upgrades=UpgradeCounts(
            done_total=4,
            failed_total=5,
            connections_handed_over_total=6,
            connections_dropped_total=7,
            last_pause_seconds=0.5,
        ),
        room=RoomSnapshot(free_bytes=5 << 20, growth_bytes=6 << 20),
        troubles={"pool_stuck": True, "store_fails": False},
    )


def scrape(core: FakeCore, server: ServerSnapshot) -> dict[str, float]:
    """Samples as Prometheus reads them, by name and labels."""
    text = generate_latest(registry_of(lambda: Snapshot(core.snapshot(), server))).decode()
    samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            samples[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return samples


def names_in(text: str) -> set[str]:
    """Metric names of ours in a text."""
    return set(re.findall(r"\bnbdswap_[a-z0-9_]+", text))


def test_every_metric_in_the_readme_exists(core: FakeCore, server: ServerSnapshot) -> None:
    _, marker, rest = README.read_text().partition(MARKER)
    assert marker, f"README.md has no {MARKER}"
    table = rest.lstrip("\n").partition("\n\n")[0]
    named = names_in(table)
    assert len(named) > 10, "the table was not found behind its marker"
    assert named <= {name.partition("{")[0] for name in scrape(core, server)}


def test_every_metric_in_the_alerts_exists(core: FakeCore, server: ServerSnapshot) -> None:
    named = names_in((DEPLOY / "prometheus.yaml").read_text())
    assert named <= {name.partition("{")[0] for name in scrape(core, server)}


def test_the_alerts_know_no_trouble_that_does_not_exist() -> None:
    text = (DEPLOY / "prometheus.yaml").read_text()
    named = set(re.findall(r'nbdswap_trouble\{what="(\w+)"\}', text))
    assert named <= set(TROUBLES)
    assert {"file_system_nearly_full", "pool_stuck", "store_nearly_full"} <= named


def test_classes_of_one_size_in_two_zpools_are_one_sum(
    core: FakeCore, server: ServerSnapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = core.snapshot()
    classes = snapshot["pool"]["classes"]
    monkeypatch.setattr(core, "snapshot", lambda: snapshot)
    before = scrape(core, server)
    classes.append({**classes[0], "zpool": "zsmalloc", "frames": 7})
    samples = scrape(core, server)
    of_size = 'object_bytes_max="1360"'
    assert samples[f"nbdswap_pool_class_frames{{{of_size}}}"] == 10 + 7
    for name in ("blocks", "slots", "slots_used", "freeable_frames"):
        sample = f"nbdswap_pool_class_{name}{{{of_size}}}"
        assert samples[sample] == 2 * before[sample] > 0


def test_numbers_arrive_unchanged(core: FakeCore, server: ServerSnapshot) -> None:
    core.pages["swap"] = {"pool": 5, "lost": 2}
    samples = scrape(core, server)
    expected = {
        'nbdswap_build_info{version="1.2.3"}': 1,
        "nbdswap_ready": 1,
        "nbdswap_generation": 7,
        'nbdswap_hardening_ok{what="lock_memory"}': 1,
        'nbdswap_hardening_ok{what="io_flusher"}': 0,
        "nbdswap_handshakes_failed_total": 2,
        "nbdswap_connections_refused_total": 3,
        'nbdswap_export_size_bytes{export="swap"}': 1 << 20,
        'nbdswap_pages{export="swap",tier="pool"}': 5,
        'nbdswap_pages{export="swap",tier="lost"}': 2,
        'nbdswap_requests_total{export="swap",op="write"}': 11,
        'nbdswap_request_errors_total{errno="ENOSPC",export="swap",op="write"}': 3,
        "nbdswap_pool_limit_bytes": 1 << 20,
        "nbdswap_pool_used_bytes_max": 49152,
        "nbdswap_pool_huge_bytes": 0,
        'nbdswap_pool_codec_pages{codec="repeat"}': 1,
        'nbdswap_pool_rejects_total{reason="pool_full"}': 5,
        'nbdswap_pool_former_objects{zpool="zsmalloc"}': 8,
        "nbdswap_pool_pages_moved_total": 3,
        'nbdswap_pool_class_frames{object_bytes_max="1360"}': 10,
        'nbdswap_pool_class_slots_used{object_bytes_max="1360"}': 28,
        'nbdswap_pool_class_freeable_frames{object_bytes_max="1360"}': 2,
        'nbdswap_pool_blocks{fullness="70-80"}': 1,
        'nbdswap_pool_blocks{fullness="full"}': 9,
        "nbdswap_store_live_bytes": 1 << 20,
        "nbdswap_store_degraded": 0,
        "nbdswap_store_unanswered_seconds": 0.0,
        "nbdswap_store_segments_suspect": 3,
        "nbdswap_store_segments_broken": 2,
        "nbdswap_store_pages_written_back_total": 100,
        "nbdswap_store_summary_errors_total": 4,
        "nbdswap_store_scrub_done_ratio": 0.75,
        "nbdswap_store_scrub_passed_timestamp_seconds": 1_800_000_000.0,
        "nbdswap_store_scrub_passes_total": 2,
        "nbdswap_store_scrub_bytes_total": 54321,
        "nbdswap_store_scrub_pages_lost_total": 2,
        "nbdswap_store_scrub_records_unreadable_total": 1,
        "nbdswap_durable_owed_pages": 7,
        "nbdswap_durable_segments_held": 5,
        "nbdswap_durable_checkpoints_failed_total": 3,
        "nbdswap_durable_recovered_pages": 9,
        "nbdswap_durable_recovery_seconds": 0.5,
        "nbdswap_store_write_amplification_ratio": 1.5,
        "nbdswap_store_bytes_cleaned_total": 50000,
        "nbdswap_store_write_budget_left_bytes": 1 << 30,
        "nbdswap_store_write_budget_waits_total": 2,
        "nbdswap_store_over_budget": 0,
        'nbdswap_store_segments{live="0-10"}': 1,
        'nbdswap_store_segments{live="90-100"}': 10,
        "nbdswap_store_file_system_free_bytes": 5 << 20,
        "nbdswap_store_growth_bytes": 6 << 20,
        'nbdswap_trouble{what="pool_stuck"}': 1,
        'nbdswap_trouble{what="store_fails"}': 0,
        "nbdswap_table_resident_bytes": 8192,
        "nbdswap_connections_accepted_total": 9,
        'nbdswap_worker_sleeps_total{worker="0"}': 40,
    }
    assert {name: samples.get(name) for name in expected} == expected


def test_histogram_buckets_are_cumulated(core: FakeCore, server: ServerSnapshot) -> None:
    samples = scrape(core, server)
    name = "nbdswap_request_duration_seconds"
    buckets = [
        samples[f'{name}_bucket{{le="{bound}",op="read",tier="pool"}}']
        for bound in ("1e-06", "0.001", "+Inf")
    ]
    assert buckets == [2, 5, 6]
    assert samples[f'{name}_count{{op="read",tier="pool"}}'] == 6
    assert samples[f'{name}_sum{{op="read",tier="pool"}}'] == 0.25


def test_every_number_of_a_snapshot_is_exported(core: FakeCore, server: ServerSnapshot) -> None:
    """A counter that is added to the engine and forgotten here would be lost without a word."""
    snapshot = core.snapshot()
    assert snapshot["store"] is not None
    store: dict[str, Any] = {**snapshot["store"]}
    scrub = store.pop("scrub")
    durable = store.pop("durable")
    # Exported as one ratio.
    del scrub["segments"], scrub["segments_done"]
    sections = {
        "pool": {**snapshot["pool"]},
        "store": store,
        "store_scrub": scrub,
        "durable": durable,
    }
    names = {name.partition("{")[0] for name in scrape(core, server)}
    for section, values in sections.items():
        for key, value in values.items():
            if isinstance(value, int | dict):
                name = f"nbdswap_{section}_{key}"
                in_info = key in {"codec_level", "frame_bytes"}
                assert in_info or {name, f"{name}_total"} & names, f"{name} is not exported"


def test_without_a_store_its_metrics_are_absent(core: FakeCore, server: ServerSnapshot) -> None:
    core.opened_with["store"] = None
    server = replace(server, room=None)
    assert not [name for name in scrape(core, server) if name.startswith("nbdswap_store")]


def test_upgrades_are_counted_by_outcome(core: FakeCore, server: ServerSnapshot) -> None:
    samples = scrape(core, server)
    assert samples['nbdswap_upgrades_total{outcome="done"}'] == 4
    assert samples['nbdswap_upgrades_total{outcome="failed"}'] == 5
    assert samples['nbdswap_upgrade_connections_total{outcome="handed_over"}'] == 6
    assert samples['nbdswap_upgrade_connections_total{outcome="dropped"}'] == 7
    assert samples["nbdswap_upgrade_pause_seconds"] == 0.5


def test_without_a_budget_nothing_is_said_to_be_left_of_it(
    core: FakeCore, server: ServerSnapshot
) -> None:
    core.write_budget_left_bytes = None
    samples = scrape(core, server)
    assert "nbdswap_store_write_budget_left_bytes" not in samples
    assert "nbdswap_store_over_budget" in samples


def test_a_server_that_stops_is_not_ready(core: FakeCore, server: ServerSnapshot) -> None:
    stopping = ServerSnapshot(
        **{f: getattr(server, f) for f in server.__slots__} | {"stopping": True}
    )
    assert scrape(core, stopping)["nbdswap_ready"] == 0


def test_write_amplification_of_an_unused_store_is_one(core: FakeCore) -> None:
    store = core.snapshot()["store"]
    assert store is not None
    store["written_bytes"] = store["bytes_written_back"] = 0
    assert write_amplification(store) == 1
