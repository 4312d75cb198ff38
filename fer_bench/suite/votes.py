"""Records of members -> records of ensembles, without any training."""

from typing import Any

import numpy as np

from fer_bench import metrics, records
from fer_bench.config import Ensemble, Suite
from fer_bench.ensemble import soft_vote
from fer_bench.suite.members import Setting, environment


def missing_members(setting: Setting, suite: Suite, ensemble: Ensemble) -> list[str]:
    """Which runs of an ensemble have no finished record; with any missing it is withheld, never silently smaller."""
    found = _members(setting, suite, ensemble)
    return [f"{name} seed {seed}" for (name, seed), record in found.items() if not record or record["kind"] != "member"]


def _members(setting: Setting, suite: Suite, ensemble: Ensemble) -> dict[tuple[str, int], dict[str, Any] | None]:
    runs = [(name, seed) for name in ensemble.members for seed in suite.seeds]
    return {run: records.find(setting.board, *run) for run in runs}


def build_ensemble(setting: Setting, suite: Suite, ensemble: Ensemble) -> dict[str, Any]:
    """Vote over finished members and save the record, unless it is there; returns it."""
    members = [record for record in _members(setting, suite, ensemble).values() if record]
    identity = _identity(setting, ensemble, members)
    existing = records.find(setting.board, ensemble.name, None)
    if existing and existing["run_id"] == records.run_id(identity) and not setting.options.force:
        return existing
    stored = [records.arrays(setting.board, member) for member in members]
    arrays = _vote(stored, ensemble)
    record = {
        "schema": records.SCHEMA,
        "kind": "ensemble",
        "name": ensemble.name,
        "seed": None,
        "run_id": records.run_id(identity),
        "identity": identity,
        "protocol": setting.protocol,
        "suite": setting.suite,
        "data": members[0]["data"],
        "members": [{key: member[key] for key in ("name", "seed", "run_id")} for member in members],
        "method": ensemble.method,
        "weights": [round(1 / len(members), 6)] * len(members),
        "views": list(ensemble.views),
        "headline": ensemble.views[-1],
        "passes": {view: sum(member["passes"][view] for member in members) for view in ensemble.views},
        "figures": _figures(arrays, ensemble),
        "looks": [],  # a vote opens no data: it scores what its members stored
        "environment": environment(setting.device),
        "timing": {},
    }
    if members[0].get("limited"):
        record["limited"] = members[0]["limited"]
    return records.load(records.save(setting.board, record, arrays))


def _identity(setting: Setting, ensemble: Ensemble, members: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "kind": "ensemble",
        "protocol": setting.protocol,
        "method": ensemble.method,
        "parameters": {},
        "views": list(ensemble.views),
        "members": sorted(member["run_id"] for member in members),
        "data_digest": members[0]["data"]["digest"],
        "split_digest": members[0]["data"]["split_digest"],
    }


def _vote(stored: list[dict[str, np.ndarray]], ensemble: Ensemble) -> dict[str, np.ndarray]:
    arrays = {}
    for part in ("PublicTest", "PrivateTest"):
        arrays[f"{part}/labels"] = stored[0][f"{part}/labels"]
        for view in ensemble.views:
            key = f"{part}/{view}"
            arrays[key] = records.as_stored(soft_vote(np.stack([member[key] for member in stored])))
    return arrays


def _figures(arrays: dict[str, np.ndarray], ensemble: Ensemble) -> dict[str, dict[str, Any]]:
    return {
        part: {
            v: metrics.figures(arrays[f"{part}/labels"].astype(np.int64), arrays[f"{part}/{v}"]) for v in ensemble.views
        }
        for part in ("PublicTest", "PrivateTest")
    }
