"""The certificate of identical bytes: reproduce the last commit in two clones, compare every output and dvc.lock.

uv run python -m tools.certificate                  the sample; takes twice as long as `dvc repro`
uv run python -m tools.certificate --tiny           a tiny sample, short trainings
uv run python -m tools.certificate --threads 1 2    one clone with one thread, one with two
"""

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from nuclei.device import processor
from tools.clone import ROOT, TINY, Clone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--threads", type=int, nargs=2, metavar="N", help="of each clone")
    parser.add_argument("--out", type=Path, default=Path("certificate.json"))
    options = parser.parse_args()
    if git(ROOT, "status", "--porcelain"):
        print("note: what is not committed is in neither clone", file=sys.stderr)

    with tempfile.TemporaryDirectory() as folder:
        clones = [Clone(Path(folder) / name) for name in ("first", "second")]
        for number, clone in enumerate(clones):
            git(ROOT, "clone", "--quiet", str(ROOT), str(clone.path))
            if options.tiny:
                clone.set(TINY)
            if options.threads:
                clone.set({"threads": options.threads[number]})
            subprocess.run(["dvc", "repro", "--force"], cwd=clone.path, env=clone.environment, check=True)
        certificate = certify(*clones)
    options.out.write_text(json.dumps(certificate, indent=2) + "\n")
    different = certificate["different"]
    print(f"{len(certificate['files'])} files, {len(different)} of them different: {options.out}")
    for name in different:
        print(f"  {name}")
    sys.exit(bool(different))


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def certify(first: Clone, second: Clone) -> dict[str, Any]:
    """Say of two reproduced clones which files differ, if any, and what they were made with."""
    one, other = hashes(first), hashes(second)
    return {
        "commit": git(first.path, "rev-parse", "HEAD"),
        "different": sorted(name for name in one | other if one.get(name) != other.get(name)),
        "environment": environment(first),
        "files": one,
    }


def hashes(clone: Clone) -> dict[str, str]:
    """SHA-256 of dvc.lock and of all that lies in data and reports, by its path in the clone."""
    files = [clone.path / "dvc.lock"]
    files += sorted(path for part in ("data", "reports") for path in (clone.path / part).rglob("*") if path.is_file())
    return {str(path.relative_to(clone.path)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def environment(clone: Clone) -> dict[str, Any]:
    """What the bytes may depend on: what the pipeline wrote of it, the machine, and all that is installed."""
    written = json.loads((clone.path / "reports/train/resnet/environment.json").read_text())
    packages = {package.metadata["Name"].lower(): package.version for package in distributions()}
    packages |= written["packages"]
    return written | {
        "processor": processor(),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "packages": dict(sorted(packages.items())),
    }


if __name__ == "__main__":
    main()
