"""The clusters: which processes run on which host, and the flags that a Beam pipeline needs to run there."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.cluster import software
from tests.cluster.hosts import Host

HOSTS = ("driver", "store", "head", "node1", "node2")
"""`driver` is where `tsae` is called; `head` has the engine's master, each node a worker of the engine and a pool of Beam's."""

NODES = ("node1", "node2")

BUCKET = "s3://signs"

POOL_PORT, STORE_PORT, JOB_PORT, PRISM_PORT = 50000, 9000, 8099, 8073

SLOTS = 2
"""Tasks at once on a node."""

JAVA = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""What starts fastest on few cores."""

OPENED = (
    *("java.lang", "java.lang.invoke", "java.lang.reflect", "java.io", "java.net", "java.nio", "java.text", "java.time"),
    *("java.util", "java.util.concurrent", "java.util.concurrent.atomic", "java.util.concurrent.locks", "jdk.internal.ref"),
    *("sun.nio.ch", "sun.nio.cs", "sun.security.action", "sun.util.calendar"),
)

OPENS = [
    *(f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in OPENED),
    "--add-exports=java.base/sun.net.util=ALL-UNNAMED",
    "-Djdk.reflect.useDirectMethodHandle=false",
]
"""What engines of the time of Java 8 look into."""


@dataclasses.dataclass(frozen=True)
class Spec:
    """A process to keep.

    Attributes:
        name: Of it, and of its log.
        host: Where it runs.
        argv: What it runs.
        port: Which answers when it is ready; None if nobody asks.
    """

    name: str
    host: str
    argv: Sequence[str]
    port: int | None = None


@dataclasses.dataclass(frozen=True)
class Cluster:
    """What `plan` returns: processes in the order of their start, the flags for Beam, and what it is."""

    specs: list[Spec]
    flags: list[str]
    versions: str


def plan(engine: str, hosts: dict[str, Host], folder: Path) -> Cluster:
    """Plans a cluster.

    Args:
        engine: "flink", "spark" or "prism".
        hosts: By name.
        folder: For configuration.
    """
    python = ["-m", "tests.cluster.store", hosts["store"].address, str(STORE_PORT)]
    common = [Spec("store", "store", [sys.executable, *python], STORE_PORT)]
    nodes = ("driver",) if engine == "prism" else NODES
    command = [sys.executable, "-m", "apache_beam.runners.worker.worker_pool_main", f"--service_port={POOL_PORT}"]
    common += [Spec(f"pool-{node}", node, command, POOL_PORT) for node in nodes]
    engines: dict[str, Callable[[dict[str, Host], Path], Cluster]] = {"flink": _flink, "spark": _spark, "prism": _prism}
    cluster = engines[engine](hosts, folder)
    flags = [*cluster.flags, "--environment_type=EXTERNAL", f"--environment_config=localhost:{POOL_PORT}"]
    return dataclasses.replace(cluster, specs=[*common, *cluster.specs], flags=flags)


def environment(hosts: dict[str, Host]) -> dict[str, str]:
    """What all processes have in theirs: the store, and this Python for the workers that a pool starts by name."""
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "AWS_ENDPOINT_URL": f"http://{hosts['store'].address}:{STORE_PORT}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "NO_PROXY": "*",
        "no_proxy": "*",
    }


def _flink(hosts: dict[str, Host], folder: Path) -> Cluster:
    flink = software.flink_jars()
    server, is_beams = software.job_server("flink", flink)
    head = hosts["head"].address
    (folder / "config.yaml").write_text("")
    settings = {
        "jobmanager.rpc.address": head,
        "rest.address": head,
        "rest.bind-address": head,
        "restart-strategy.type": "fixed-delay",
        "restart-strategy.fixed-delay.attempts": "3",
        "restart-strategy.fixed-delay.delay": "1 s",
        "heartbeat.interval": "1000",
        "heartbeat.timeout": "8000",
        "taskmanager.numberOfTaskSlots": str(SLOTS),
        "taskmanager.cpu.cores": "1.0",
        "taskmanager.memory.task.heap.size": "384m",
        "taskmanager.memory.task.off-heap.size": "64m",
        "taskmanager.memory.managed.size": "64m",
        "taskmanager.memory.network.min": "64m",
        "taskmanager.memory.network.max": "64m",
        "taskmanager.memory.framework.heap.size": "128m",
        "taskmanager.memory.framework.off-heap.size": "128m",
        "taskmanager.memory.jvm-metaspace.size": "256m",
        "taskmanager.memory.jvm-overhead.min": "192m",
        "taskmanager.memory.jvm-overhead.max": "192m",
        "io.tmp.dirs": "/tmp",  # noqa: S108 (each host has its own)
    }
    # Beam's library lies beside Flink's, as Beam's own job server would ship it with each job.
    java = _java(folder, f"{flink}:{server}")
    given = [f"--configDir={folder}", *(f"-D{name}={value}" for name, value in settings.items())]
    main = "org.apache.flink.runtime"
    specs = [
        Spec("jobmanager", "head", [*java, f"{main}.entrypoint.StandaloneSessionClusterEntrypoint", *given], 8081),
        *(
            Spec(
                f"taskmanager-{node}",
                node,
                [*java, f"{main}.taskexecutor.TaskManagerRunner", *given, f"-Dtaskmanager.host={hosts[node].address}"],
            )
            for node in NODES
        ),
        _job_server(is_beams, java, "Flink", f"{head}:8081", hosts["driver"].address, folder),
    ]
    return Cluster(specs, _portable(hosts["driver"].address), f"Flink {software.FLINK}, {_describe(is_beams)}")


def _spark(hosts: dict[str, Host], folder: Path) -> Cluster:
    home = software.spark_home()
    server, is_beams = software.job_server("spark", f"{home}/jars/*")
    head, driver = hosts["head"].address, hosts["driver"].address
    java = ["env", f"SPARK_HOME={home}", "SPARK_SCALA_VERSION=2.12", *_java(folder, f"{home}/jars/*:{server}")]
    properties = {
        "spark.executor.extraClassPath": server,
        "spark.executor.extraJavaOptions": " ".join(OPENS),
        "spark.executor.cores": str(SLOTS),
        "spark.executor.memory": "768m",
        "spark.driver.host": driver,
        "spark.driver.bindAddress": driver,
        "spark.ui.enabled": "false",
        "spark.task.maxFailures": "4",
    }
    main, workers = "org.apache.spark.deploy", ["--cores", str(SLOTS), "--memory", "1g", "--work-dir", "/tmp/spark"]  # noqa: S108
    specs = [
        Spec("master", "head", [*java, f"{main}.master.Master", "--host", head, "--port", "7077"], 7077),
        *(
            Spec(
                f"worker-{node}",
                node,
                [*java, f"{main}.worker.Worker", "--host", hosts[node].address, *workers, f"spark://{head}:7077"],
            )
            for node in NODES
        ),
        _job_server(
            is_beams, [*java, *(f"-D{k}={v}" for k, v in properties.items())], "Spark", f"spark://{head}:7077", driver, folder
        ),
    ]
    return Cluster(specs, _portable(driver), f"Spark {software.SPARK}, {_describe(is_beams)}")


def _java(folder: Path, class_path: str) -> list[str]:
    """How a program of Java starts; by a file of its arguments, as they are many."""
    (folder / "log4j2.xml").write_text(LOGGING)
    arguments = [*JAVA, *OPENS, f"-Dlog4j.configurationFile={folder}/log4j2.xml", "-cp", class_path]
    (folder / "java.args").write_text("\n".join(arguments))
    return ["java", f"@{folder}/java.args"]


def _job_server(is_beams: bool, java: Sequence[str], engine: str, master: str, address: str, folder: Path) -> Spec:
    artifacts = folder / "artifacts"
    if is_beams:
        main = f"org.apache.beam.runners.{engine.lower()}.{engine}JobServerDriver"
        flag = "--flink-master" if engine == "Flink" else "--spark-master-url"
        own = [main, f"{flag}={master}", f"--job-host={address}", f"--job-port={JOB_PORT}", f"--artifact-port={JOB_PORT + 1}"]
        return Spec("jobserver", "driver", [*java, *own, "--expansion-port=0", f"--artifacts-dir={artifacts}"], JOB_PORT)
    parallelism = len(NODES) * SLOTS
    own = ["JobServer", f"{engine}Engine", master, address, str(JOB_PORT), str(artifacts), str(parallelism)]
    return Spec("jobserver", "driver", [*java, *own], JOB_PORT)


def _portable(address: str) -> list[str]:
    return ["--runner=PortableRunner", f"--job_endpoint={address}:{JOB_PORT}", f"--parallelism={len(NODES) * SLOTS}"]


def _describe(is_beams: bool) -> str:
    own = f"the tests' own job server on Beam's Java library {software.BEAM_LIBRARY}"
    return f"Beam's job server {software.BEAM}" if is_beams else own


def _prism(hosts: dict[str, Host], folder: Path) -> Cluster:
    """All on one host, as Prism tells clients and workers to find it at `localhost`."""
    argv = [str(software.prism()), f"-job_port={PRISM_PORT}", "-serve_http=false"]
    flags = ["--runner=PortableRunner", f"--job_endpoint={hosts['driver'].address}:{PRISM_PORT}"]
    return Cluster([Spec("prism", "driver", argv, PRISM_PORT)], flags, f"Prism {software.BEAM}")


LOGGING = """<Configuration status="ERROR">
 <Appenders>
  <Console name="out" target="SYSTEM_ERR"><PatternLayout pattern="%d{HH:mm:ss.SSS} %-5p %c{1} %m%n"/></Console>
 </Appenders>
 <Loggers><Root level="INFO"><AppenderRef ref="out"/></Root></Loggers>
</Configuration>
"""
