"""The API against its own OpenAPI document, by schemathesis."""

import pathlib
import subprocess
import sys

import guarded
import viewing

CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
]


def test_answers_are_as_documented(folder, needs):
    """Requests made up from the document, good and bad, are answered as it says, and never with a 5xx."""
    schemathesis = pathlib.Path(sys.executable).with_name("schemathesis")
    needs(None if schemathesis.is_file() else "schemathesis is not installed (./setup.sh)")
    with viewing.simulator((32, 32), 500, "--runs", 0) as data_port, guarded.receiver(folder, data_port) as site:
        site.wait_for_state("running")
        command = [schemathesis, "run", f"{site.url}/api/v1/openapi.json", "--checks", ",".join(CHECKS), "--seed", "1"]
        limits = ["--max-examples", "20", "--phases", "examples,coverage,fuzzing", "--rate-limit", "40/s", "--no-color"]
        who = ["--header", f"Authorization: Bearer {site.control}"]
        run = subprocess.run([*command, *limits, *who], cwd=folder, capture_output=True, text=True, timeout=300)
        assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
        assert site.process.poll() is None
