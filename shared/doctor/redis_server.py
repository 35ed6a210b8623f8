"""Valkey or Redis: a primary that keeps what it is given, as long as it has room."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from shared.doctor.findings import Finding, fail, ok, warn

OLDEST_REDIS: Final = (6, 2)
"""The first with XADD NOMKSTREAM and exclusive ranges, on which the event log rests."""
FULL: Final = 0.9
FILLING: Final = 0.75
_MIB: Final = 2**20


def check_redis(info: dict[str, Any]) -> Iterator[Finding]:
    """What the answer to INFO says."""
    yield _check_server(info)
    yield _check_eviction(info)
    yield _check_memory(info)
    yield _check_persistence(info)


def _check_server(info: dict[str, Any]) -> Finding:
    is_valkey = info.get("server_name") == "valkey"
    # Valkey tells the version of Redis it is compatible with as well.
    redis_version = str(info.get("redis_version", "0"))
    seen = f"Valkey {info.get('valkey_version')}" if is_valkey else f"Redis {redis_version}"
    if info.get("redis_mode") == "cluster" or info.get("cluster_enabled"):
        return fail("redis", f"{seen}, a cluster", "use one primary, replicated if you like")
    if info.get("role") == "slave":
        return fail("redis", f"{seen}, a read-only replica", "point redis.url at the primary")
    if tuple(int(part) for part in redis_version.split(".")[:2] if part.isdecimal()) < OLDEST_REDIS:
        return fail("redis", f"{seen}, which lacks commands that are needed", "use Valkey, or Redis 6.2 or newer")
    return ok("redis", f"{seen}, {info.get('connected_clients')} connections")


def _check_eviction(info: dict[str, Any]) -> Finding:
    policy = str(info.get("maxmemory_policy", "unknown"))
    seen = f"maxmemory-policy {policy}"
    change = "set maxmemory-policy noeviction"
    if policy == "noeviction":
        return ok("redis eviction", seen)
    if policy.startswith("allkeys-"):
        return fail(
            "redis eviction",
            f"{seen}: when memory runs out, event logs and waiting jobs of running turns are thrown away",
            change,
        )
    return warn("redis eviction", f"{seen}: when memory runs out, event logs of running turns are thrown away", change)


def _check_memory(info: dict[str, Any]) -> Finding:
    used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    of_machine = limit == 0
    room = limit or int(info.get("total_system_memory", 0))
    if not room:
        return ok("redis memory", f"{used // _MIB} MiB used, no limit is told")
    whose = "the machine's" if of_machine else "maxmemory"
    seen = f"{used // _MIB} of {room // _MIB} MiB used ({whose})"
    change = "raise maxmemory, or lower event_log.ttl_secs"
    if used > FULL * room:
        return fail("redis memory", seen, change)
    if used > FILLING * room:
        return warn("redis memory", seen, change)
    return ok("redis memory", seen)


def _check_persistence(info: dict[str, Any]) -> Finding:
    for member in ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status"):
        if info.get(member, "ok") != "ok":
            change = "look into the server's log and its disk: it may refuse all writes"
            return fail("redis persistence", f"{member} is {info[member]}", change)
    if info.get("loading"):
        return fail("redis persistence", "the server is loading its data", "wait")
    if info.get("aof_enabled"):
        return ok("redis persistence", "append-only file")
    return warn(
        "redis persistence",
        "no append-only file: a restart empties queue and event logs, which are then rebuilt from PostgreSQL",
        "set appendonly yes, or accept that running turns start over after a restart",
    )
