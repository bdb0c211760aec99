"""What engines are made of: found in a folder, or brought there by pip, Maven and Go.

Beam's job servers come from Maven as its users get them. Where they are not to be had, a small one takes their place that is
compiled from `jobserver/` against Beam's own library for talking to workers.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(os.environ.get("TSAE_CLUSTER_CACHE", Path.home() / ".cache" / "tsae-cluster"))

FLINK, SPARK, BEAM = "1.20.5", "3.5.9", "2.77.0"

BEAM_LIBRARY = "2.73.0"
"""Of the small job server: the newest that Maven resolved with all it needs when this was written."""

OWN_SOURCES = Path(__file__).parent / "jobserver"


def flink_jars() -> str:
    """Class path of Flink."""
    return f"{_from_pypi('apache-flink-libraries', FLINK, 'deps/lib/')}/*"


def spark_home() -> Path:
    """A folder with Spark's `jars`."""
    return _from_pypi("pyspark", SPARK, "deps/jars/").parent


def prism() -> Path:
    """Prism's program."""
    path = FOLDER / "prism"
    if not path.exists():
        command = ["go", "install", f"github.com/apache/beam/sdks/v2/go/cmd/prism@v{BEAM}"]
        subprocess.run(command, check=True, env={**os.environ, "GOBIN": str(FOLDER)})
    return path


def job_server(engine: str, engine_jars: str) -> tuple[str, bool]:
    """Class path of the job server for "flink" or "spark", and whether it is Beam's own."""
    name = {"flink": f"beam-runners-flink-{FLINK.rpartition('.')[0]}-job-server", "spark": "beam-runners-spark-3-job-server"}
    with contextlib.suppress(subprocess.CalledProcessError):
        return _from_maven(name[engine], BEAM, whole=False), True
    library = _from_maven("beam-runners-java-fn-execution", BEAM_LIBRARY, whole=True)
    return f"{_compile(engine, f'{library}:{engine_jars}')}:{library}", False


def _from_pypi(package: str, version: str, part: str) -> Path:
    """A folder of a source distribution, which is not installed."""
    target = FOLDER / f"{package}-{version}"
    if not target.exists():
        with _new(target) as new:
            # pip asks a source distribution for its metadata, which needs setuptools and wheel.
            command = ["pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", str(new), f"{package}=={version}"]
            subprocess.run([sys.executable, "-m", *command], check=True)
            (archive,) = new.glob("*.tar.gz")
            with tarfile.open(archive) as tar:
                members = [m for m in tar if m.isfile() and part in m.name]
                tar.extractall(new / "unpacked", members, filter="data")
            archive.unlink()
    return next(path for path in target.rglob(part.rstrip("/").rpartition("/")[2]) if path.is_dir())


def _from_maven(artifact: str, version: str, whole: bool) -> str:
    """Class path of an artifact, with what it needs if it is not the whole in itself."""
    target = FOLDER / f"{artifact}-{version}"
    missing = FOLDER / f"{artifact}-{version}.missing"
    if missing.exists():
        raise subprocess.CalledProcessError(1, "mvn")
    if not target.exists():
        project = f"""<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
            <groupId>tests</groupId><artifactId>tests</artifactId><version>1</version><dependencies><dependency>
            <groupId>org.apache.beam</groupId><artifactId>{artifact}</artifactId><version>{version}</version>
            {"" if whole else "<exclusions><exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion></exclusions>"}
            </dependency></dependencies></project>"""
        with _new(target) as new:
            (new / "pom.xml").write_text(project)
            command = ["mvn", "-q", "-B", "-f", str(new / "pom.xml"), "dependency:copy-dependencies"]
            try:
                subprocess.run(
                    [*command, f"-DoutputDirectory={new}/jars"],
                    check=True,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            except (OSError, subprocess.CalledProcessError) as error:
                if "Could not find artifact" in str(getattr(error, "stdout", "")):  # else it may be there another time
                    missing.touch()
                print(f"{artifact} {version} cannot be had from Maven", file=sys.stderr)
                raise subprocess.CalledProcessError(1, "mvn") from error
    return f"{target}/jars/*"


def _compile(engine: str, class_path: str) -> Path:
    sources = [path for path in sorted(OWN_SOURCES.glob("*.java")) if path.stem in (*OWN[engine], *SHARED)]
    target = FOLDER / f"jobserver-{engine}"
    if not target.exists() or target.stat().st_mtime < max(path.stat().st_mtime for path in sources):
        shutil.rmtree(target, ignore_errors=True)
        with _new(target) as new:
            subprocess.run(["javac", "-nowarn", "-Xlint:none", "-d", new, "-cp", class_path, *sources], check=True)
            service = new / NATIVE_SERVICE
            service.parent.mkdir(parents=True, exist_ok=True)
            service.write_text(NATIVE)
    return target


NATIVE = "NativeReshuffle"
"""The one that Beam finds by `NATIVE_SERVICE`."""

NATIVE_SERVICE = "META-INF/services/org.apache.beam.sdk.util.construction.NativeTransforms$IsNativeTransform"

OWN = {"flink": ("FlinkEngine", "FlinkStreamEngine", "StageOperator"), "spark": ("SparkEngine",)}
"""Sources of the small job server for one engine."""

SHARED = ("JobServer", "Engine", "Stage", "Grouping", "Translation", NATIVE)
"""Sources of the small job server that all engines have."""


@contextlib.contextmanager
def _new(target: Path) -> Iterator[Path]:
    """A folder to fill, which is at its place only if the block succeeds."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        new = Path(folder) / "new"
        new.mkdir()
        yield new
        new.rename(target)
