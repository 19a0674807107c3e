"""The hostile inputs of the wire and the faults that concern serving, by number; each has tests that bear it.

A test of row 7 is named ``test_row_7_...``, one of fault 2 ``test_fault_2_...``, and one of the further ones by its
name, such as ``test_fault_disk_full_...``.
"""

ROWS = {
    1: "a captured legacy request after a restart, without its version, or with a longer timeout: 401",
    2: "one btauth nonce to two workers at once: the work runs once",
    3: "a body altered where the legacy hash does not reach: accepted, and marked as not authenticated",
    4: "a nonce an hour ahead: 401, and no state written",
    5: "no, half or broken auth headers, and a mixture of dialects: 400 or 401",
    6: "a good signature of somebody unwelcome: 403; another spelling of a key: 401",
    7: "a body that is no JSON object, or a dangerous one: 400",
    8: "a body over the limit, declared, chunked or compressed: 413 early, flat memory",
    9: "slow heads, slow bodies, silence: closed after the deadline, others unaffected",
    10: "heads that are too large or ambiguous: 400 or 431, and nothing of them in a log",
    11: "a flood of bad signatures from one address: 429 before any signature work",
    12: "a caller that leaves while the model runs: its place is freed, nothing crashes",
    13: "a model that answers NaN, the wrong type or nothing: 500 in short ASCII; half a stream is cut off",
    14: "what a body or header says of status, sender and time: ignored",
    15: "overload, dead model worker, stale metagraph: 503 or 429 with Retry-After, the highest stake last",
}
"""Hostile input, and the wanted answer."""

FAULTS = {
    "1": "Triton killed mid-request: 503 before the deadline, served again once it is back",
    "2": "Triton hangs: the deadline fires, a breaker opens, nothing piles up",
    "4": "a candidate that answers NaN never reaches a validator",
    "11": "S3 down for hours: answers go on, the record stays below its cap and counts what it dropped",
    "20": "a killed worker takes no counter back",
    "21": "the chain is away: the last table serves, its age is shown, /readyz says so past the limit",
    "24": "a clock 5 s off: shown, refused at start, and a clear 401",
    "25": "a replayed request, also after kill and restart, runs once",
    "26": "a missing or malformed signature: a short answer of constant size, no stack trace",
    "27": "a flood of a thousand unknown hotkeys is refused before any signature work",
    "28": "slow senders and a body of 1 GB meet caps in time and size",
    "29": "a caller's timeout below the model's time: refused, not left waiting",
    "30": "unknown fields of a changed schema: seen by us, answered all the same, and the answer checked",
    "disk_full": "no room on the disk: no crash, no answer without its nonce, well again once there is room",
    "read_only_disk": "the same on a disk that turned read-only",
    "sigterm_under_load": "what was admitted is answered, nothing is left behind",
    "garbled_files": "routes, neurons or prices that cannot be read leave serving as it was",
    "route_flip": "a route flip reaches every worker and drops nothing",
    "killed_worker": "a killed worker costs what it had in flight",
    "killed_parent": "a killed parent costs nothing where the listening socket outlives it",
    "restart": "nor does a restart",
}
"""Faults of serving by their number in the threat list, or by name."""
