"""A small W&B server on 127.0.0.1, for tests that run the real W&B clients: runs, sweeps, artifacts and reports."""

import base64
import itertools
import json
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen
from typing import Any, Self
from urllib.parse import quote, unquote

import yaml

ENTITY = "local"
TIME = "2026-01-01T00:00:00Z"
Json = dict[str, Any]


@dataclass
class Run:
    """What clients told about one run; `sweep` is the id of its sweep and `files` maps uploaded names to copies on disk."""

    id: str
    entity: str
    project: str
    state: str = "running"
    exit_code: int | None = None
    sweep: str | None = None
    config: Json = field(default_factory=dict)
    summary: Json = field(default_factory=dict)
    history: list[Json] = field(default_factory=list)
    details: Json = field(default_factory=dict)
    """Display name, group, job type, tags, notes, host and program, by the client's names."""
    files: dict[str, Path] = field(default_factory=dict)


@dataclass
class Sweep:
    """A grid; `given` maps run ids to the points that agents were told to run, and `text` is the config as it was sent."""

    id: str
    entity: str
    project: str
    state: str = "RUNNING"
    text: str = ""
    config: Json = field(default_factory=dict)
    points: list[Json] = field(default_factory=list)
    given: dict[str, Json] = field(default_factory=dict)

    def plan(self, text: str) -> None:
        """Take the content of a sweep file; what was given already is not given again."""
        config = yaml.safe_load(text)
        if config["method"] != "grid":
            raise ValueError(f"sweep method {config['method']!r}: this server knows grid only")
        self.text, self.config, self.points = text, config, list(grid(config["parameters"]))

    def next_point(self) -> Json | None:
        """First point of the grid that no agent was given yet."""
        given = {json.dumps(point) for point in self.given.values()}
        return next((point for point in self.points if json.dumps(point) not in given), None)


def grid(parameters: Json) -> Iterator[Json]:
    """Points of a sweep's `parameters`, keys in sorted order, the last one varying fastest."""
    keys = sorted(parameters)
    for values in itertools.product(*(_choices(key, parameters[key]) for key in keys)):
        yield dict(zip(keys, values, strict=True))


def _choices(key: str, parameter: Json) -> list[Any]:
    if "parameters" in parameter:
        return list(grid(parameter["parameters"]))
    if "values" in parameter:
        return parameter["values"]
    if "value" in parameter:
        return [parameter["value"]]
    raise ValueError(f"parameter {key!r} of a grid has none of value, values, parameters")


@dataclass
class Artifact:
    """One version of an artifact with its lineage; `logged_by` and `used_by` are run ids, in order."""

    id: str
    entity: str
    project: str
    name: str
    version: int
    type: str
    digest: str
    description: str | None = None
    metadata: Json = field(default_factory=dict)
    aliases: list[str] = field(default_factory=list)
    state: str = "PENDING"
    logged_by: list[str] = field(default_factory=list)
    used_by: list[str] = field(default_factory=list)
    files: dict[str, Path] = field(default_factory=dict)

    @property
    def collection(self) -> str:
        """Full name without the version, as entity/project/name."""
        return f"{self.entity}/{self.project}/{self.name}"

    @property
    def path(self) -> str:
        """Full name with the version, as entity/project/name:v0."""
        return f"{self.collection}:v{self.version}"


@dataclass
class Report:
    """A saved report; `spec` is the text that was sent last and `saves` how often one was."""

    id: str
    entity: str
    project: str
    title: str = ""
    description: str = ""
    spec: str = ""
    saves: int = 0


class LoopbackServer(ThreadingHTTPServer):
    """Serves W&B clients between `with` and its end; `folder` keeps the uploaded files.

    `runs`, `sweeps`, `artifacts` and `reports` hold what clients sent, by run id, sweep id, entity/project/name:version and
    report id. `unknown` names requests that have no answer here, and `failed` those whose answer went wrong; clients got an
    error for both. One more GraphQL operation is one more method and its row in `operations`.
    """

    request_queue_size = 64

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), RequestHandler)  # a free port
        self.folder = folder
        self.runs: dict[str, Run] = {}
        self.sweeps: dict[str, Sweep] = {}
        self.artifacts: dict[str, Artifact] = {}
        self.reports: dict[str, Report] = {}
        self.projects: set[tuple[str, str]] = set()
        self.unknown: list[str] = []
        self.failed: list[str] = []
        self.lock = threading.Lock()
        self.agents: dict[str, Sweep] = {}
        self.operations: dict[str, Callable[[Json], Json]] = {
            "Viewer": self._viewer,
            "GetViewer": self._viewer,
            "GetDefaultEntity": self._viewer,
            "ServerFeaturesQuery": lambda _: {"serverInfo": {"features": []}},
            "OrganizationCoreWeaveOrganizationID": lambda _: {"entity": {"organization": None}},
            "UpsertBucket": self._upsert_run,
            "RunResumeStatus": self._run_resume_status,
            "CreateRunFiles": self._create_run_files,
            "UpsertSweep": self._upsert_sweep,
            "SweepWithRuns": self._sweep_with_runs,
            "CreateAgent": self._create_agent,
            "Heartbeat": self._heartbeat,
            "CreateArtifact": self._create_artifact,
            "CreateArtifactManifest": self._create_artifact_manifest,
            "CreateArtifactFiles": self._create_artifact_files,
            "CommitArtifact": self._commit_artifact,
            "UseArtifact": self._use_artifact,
            "ArtifactByID": self._artifact_by_id,
            "ArtifactType": self._artifact_type,
            "ArtifactMembershipByName": self._artifact_membership,
            "FetchArtifactManifest": self._artifact_manifest,
            "GetArtifactMembershipFileUrls": self._artifact_file_urls,
            "GetProjects": self._get_projects,
            "CreateProject": self._create_project,
            "ProjectInternalId": self._project_internal_id,
            "upsertView": self._upsert_report,
            "SpecificReport": lambda variables: {"view": _report_fields(self.reports[variables["reportId"]])},
        }

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    @property
    def url(self) -> str:
        """Address that clients connect to."""
        return f"http://127.0.0.1:{self.server_port}"

    def environment(self) -> dict[str, str]:
        """Variables that send W&B clients here."""
        return {
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": "loopback" * 5,
            "WANDB_ENTITY": ENTITY,
            "WANDB_MODE": "online",
            "WANDB_ERROR_REPORTING": "false",
            "NO_PROXY": "127.0.0.1",
        }

    def graphql(self, request: Json) -> Json:
        """Answer to one GraphQL request, found by the operation's name."""
        named = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])
        name = named[1] if named else request["query"]
        if name not in self.operations:
            self.unknown.append(name)
            return {"errors": [{"message": f"the loopback server does not know the operation {name}"}]}
        try:
            return {"data": self.operations[name](request.get("variables") or {})}
        except Exception as error:  # a client that gets no answer asks again for minutes
            traceback.print_exc()
            self.failed.append(name)
            return {"errors": [{"message": f"{name}: {error!r}"}]}

    def file_stream(self, run: Run, request: Json) -> Json:
        """Keep the history, summary and end of a run."""
        for name, chunk in request.get("files", {}).items():
            if name == "wandb-history.jsonl":
                run.history[chunk["offset"] :] = map(json.loads, chunk["content"])
            elif name == "wandb-summary.json":
                run.summary = _without_internals(json.loads(chunk["content"][-1]))
        if request.get("complete"):
            run.exit_code = request.get("exitcode", 0)
            run.state = "failed" if run.exit_code else "finished"
        return {}

    def stored(self, path: str) -> Path:
        """Where the file uploaded to the URL path `path` lies."""
        return self.folder / unquote(path).lstrip("/")

    def note_upload(self, path: Path) -> None:
        """Give an uploaded file to its run, if it belongs to one."""
        kind, owner, *name = path.relative_to(self.folder).parts
        if kind == "runs":
            self.runs[owner].files["/".join(name)] = path

    def _viewer(self, _: Json) -> Json:
        names = dict.fromkeys(("id", "name", "username", "entity"), ENTITY)
        nothing: Json = {"email": "", "admin": False, "flags": "{}", "deletedAt": None}
        return {"viewer": {**names, **nothing, "apiKeys": {"edges": []}, "teams": {"edges": []}}}

    def _upsert_run(self, variables: Json) -> Json:
        run_id = variables["name"]
        inserted = run_id not in self.runs
        run = self.runs.setdefault(run_id, Run(run_id, variables.get("entity") or ENTITY, variables["project"]))
        self.projects.add((run.entity, run.project))
        run.sweep = variables.get("sweep") or run.sweep
        if variables.get("config"):
            config = json.loads(variables["config"])
            run.config = {key: entry["value"] for key, entry in _without_internals(config).items()}
        if variables.get("summaryMetrics"):
            run.summary = _without_internals(json.loads(variables["summaryMetrics"]))
        for key in ("displayName", "groupName", "jobType", "tags", "notes", "host", "program"):
            if variables.get(key) is not None:
                run.details[key] = variables[key]
        bucket = {
            "id": run_id,
            "name": run_id,
            "displayName": run.details.setdefault("displayName", run_id),
            "sweepName": run.sweep,
            "project": _project_fields(run),
            "historyLineCount": len(run.history),
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def _run_resume_status(self, variables: Json) -> Json:
        run = self.runs.get(variables["name"])
        project = {"id": variables["project"], "name": variables["project"], "entity": dict.fromkeys(("id", "name"), ENTITY)}
        bucket = run and {
            "id": run.id,
            "name": run.id,
            "summaryMetrics": json.dumps(run.summary),
            "displayName": run.details.get("displayName"),
            **dict.fromkeys(("logLineCount", "eventsLineCount"), 0),
            "historyLineCount": len(run.history),
            "historyTail": json.dumps([json.dumps(row) for row in run.history[-1:]]),
            "eventsTail": "[]",
            "config": json.dumps({key: {"value": value} for key, value in run.config.items()}),
            "tags": [],
            "notes": "",
            "wandbConfig": json.dumps({"t": 1}),  # without it, clients take the run for one that never started
        }
        return {"model": {**project, "bucket": bucket}}

    def _create_run_files(self, variables: Json) -> Json:
        urls = [{"name": name, "uploadUrl": f"{self.url}/runs/{variables['run']}/{quote(name)}"} for name in variables["files"]]
        return {"createRunFiles": {"runID": variables["run"], "uploadHeaders": [], "files": urls}}

    def _upsert_sweep(self, variables: Json) -> Json:
        if variables.get("id"):
            sweep = self.sweeps[variables["id"]]
        else:
            sweep = Sweep(f"sweep{len(self.sweeps)}", variables["entityName"], variables["projectName"])
        if variables.get("config"):
            sweep.plan(variables["config"])
        sweep.state = variables.get("state") or sweep.state
        self.sweeps[sweep.id] = sweep
        fields = {"name": sweep.id, "project": _project_fields(sweep)}
        return {"upsertSweep": {"sweep": fields, "configValidationWarnings": []}}

    def _sweep_with_runs(self, variables: Json) -> Json:
        sweep = self.sweeps.get(variables["sweep"])
        fields = sweep and {"id": sweep.id, "name": sweep.id, "state": sweep.state, "config": sweep.text, "runs": {"edges": []}}
        return {"project": {"sweep": fields}}

    def _create_agent(self, variables: Json) -> Json:
        agent_id = f"agent{len(self.agents)}"
        self.agents[agent_id] = self.sweeps[variables["sweep"]]
        return {"createAgent": {"agent": {"id": agent_id}}}

    def _heartbeat(self, variables: Json) -> Json:
        sweep = self.agents[variables["id"]]
        commands: list[Json] = []
        if not json.loads(variables["runState"]) and sweep.state != "PAUSED":  # an agent runs one point at a time
            point = sweep.next_point() if sweep.state == "RUNNING" else None
            if point is None:
                sweep.state = "FINISHED" if sweep.state == "RUNNING" else sweep.state
                commands = [{"type": "exit"}]
            else:
                run_id = f"{sweep.id}run{len(sweep.given)}"
                sweep.given[run_id] = point
                args = {key: {"value": value} for key, value in point.items()}
                commands = [{"type": "run", "run_id": run_id, "program": sweep.config.get("program"), "args": args}]
        return {"agentHeartbeat": {"agent": {"id": variables["id"]}, "commands": json.dumps(commands)}}

    def _artifact(self, artifact_id: str) -> Artifact:
        return next(artifact for artifact in self.artifacts.values() if artifact.id == artifact_id)

    def _versions(self, entity: str, project: str, name: str) -> list[Artifact]:
        path = f"{entity}/{project}/{name}"
        return [artifact for artifact in self.artifacts.values() if artifact.collection == path]

    def _find_artifact(self, variables: Json, name: str, alias: str) -> Artifact | None:
        versions = self._versions(variables["entity"], variables["project"], name)
        named = [artifact for artifact in versions if alias in (f"v{artifact.version}", *artifact.aliases)]
        return next((artifact for artifact in named if artifact.state == "COMMITTED"), None)

    def _artifact_by_name(self, variables: Json) -> Artifact | None:
        name, _, alias = variables["name"].partition(":")
        return self._find_artifact(variables, name, alias or "latest")

    def _create_artifact(self, variables: Json) -> Json:
        sent = variables["input"]
        entity, project, name = sent["entityName"], sent["projectName"], sent["artifactCollectionName"]
        versions = self._versions(entity, project, name)
        artifact = next((version for version in versions if version.digest == sent["digest"]), None)
        if artifact is None:
            artifact_id = base64.b64encode(f"Artifact:{len(self.artifacts)}".encode()).decode()  # clients decode it
            artifact = Artifact(artifact_id, entity, project, name, len(versions), sent["artifactTypeName"], sent["digest"])
            artifact.description = sent.get("description")
            artifact.metadata = json.loads(sent.get("metadata") or "{}")
            self.artifacts[artifact.path] = artifact
        if sent.get("runName"):  # none when the run uses this new artifact instead of logging it
            _add(artifact.logged_by, sent["runName"])
        for alias in sent.get("aliases") or []:
            _add(artifact.aliases, alias["alias"])
        if artifact.state == "COMMITTED":
            self._take_aliases(artifact)
        fields = {"id": artifact.id, "state": artifact.state, "artifactSequence": {"latestArtifact": None}}
        return {"createArtifact": {"artifact": fields}}

    def _take_aliases(self, artifact: Artifact) -> None:
        for other in self._versions(artifact.entity, artifact.project, artifact.name):
            if other is not artifact:
                other.aliases = [alias for alias in other.aliases if alias not in artifact.aliases]

    def _create_artifact_manifest(self, variables: Json) -> Json:
        artifact_id = variables["artifactID"]
        file = {"id": artifact_id, "uploadUrl": f"{self.url}/manifests/{artifact_id}", "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": artifact_id, "file": file}}}

    def _create_artifact_files(self, variables: Json) -> Json:
        edges = []
        for file in variables["input"]["artifactFiles"]:
            path = _content_path(file["md5"])
            node: Json = {"storagePath": path, "uploadUrl": f"{self.url}/{path}", "artifact": {"id": file["artifactID"]}}
            edges.append({"node": {**node, "uploadHeaders": [], "uploadMultipartUrls": None}})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _commit_artifact(self, variables: Json) -> Json:
        artifact = self._artifact(variables["artifactID"])
        contents = json.loads(self.stored(f"manifests/{artifact.id}").read_bytes())["contents"]
        artifact.files = {
            name: self.stored(_content_path(entry["digest"])) for name, entry in contents.items() if "ref" not in entry
        }
        artifact.state = "COMMITTED"
        self._take_aliases(artifact)
        return {"commitArtifact": {"artifact": {"id": artifact.id, "digest": artifact.digest}}}

    def _use_artifact(self, variables: Json) -> Json:
        sent = variables.get("input") or variables  # the one from a run's own process, the other from its Python side
        artifact = self._artifact(sent["artifactID"])
        _add(artifact.used_by, sent["runName"])
        return {"useArtifact": {"artifact": _artifact_fields(artifact)}}

    def _artifact_by_id(self, variables: Json) -> Json:
        return {"artifact": _artifact_fields(self._artifact(variables["id"]))}

    def _artifact_type(self, variables: Json) -> Json:
        artifact = self._artifact_by_name(variables)
        return {"project": {"artifact": artifact and _artifact_fields(artifact)}}

    def _artifact_membership(self, variables: Json) -> Json:
        artifact = self._artifact_by_name(variables)
        if artifact is None:
            return {"project": {"artifactCollectionMembership": None}}
        fields = _artifact_fields(artifact)
        same = {key: fields[key] for key in ("id", "versionIndex", "createdAt", "aliases")}
        membership = {"__typename": "ArtifactCollectionMembership", **same, "artifact": fields}
        return {"project": {"artifactCollectionMembership": {**membership, "artifactCollection": fields["artifactSequence"]}}}

    def _artifact_manifest(self, variables: Json) -> Json:
        url = f"{self.url}/manifests/{variables['id']}"
        return {"artifact": {"currentManifest": {"file": {"directUrl": url}}}}

    def _artifact_file_urls(self, variables: Json) -> Json:
        artifact = self._find_artifact(variables, variables["collection"], variables["alias"])
        files = artifact.files.items() if artifact else ()
        urls = {name: f"{self.url}/{path.relative_to(self.folder)}" for name, path in files}
        edges = [{"node": {"__typename": "File", "name": name, "directUrl": url}} for name, url in urls.items()]
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        membership = {"files": {"pageInfo": page, "edges": edges}}
        return {"project": {"artifactCollection": {"__typename": "ArtifactSequence", "artifactMembership": membership}}}

    def _get_projects(self, variables: Json) -> Json:
        same: Json = {"__typename": "Project", "createdAt": TIME, "isBenchmark": False, "user": None}
        names = [name for entity, name in sorted(self.projects) if entity == variables["entity"]]
        edges = [{"node": {**same, "id": name, "name": name, "entityName": variables["entity"]}} for name in names]
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        return {"models": {"pageInfo": page, "edges": edges}}

    def _create_project(self, variables: Json) -> Json:
        entity, name = variables["input"]["entityName"], variables["input"]["name"]
        self.projects.add((entity, name))
        fields = {"id": name, "name": name, "entityName": entity}
        return {"result": {"project": fields, "model": fields, "inserted": True}}

    def _project_internal_id(self, variables: Json) -> Json:
        name = variables["projectName"]
        known = (variables["entityName"], name) in self.projects
        return {"project": {"id": name, "internalId": name} if known else None}

    def _upsert_report(self, variables: Json) -> Json:
        inserted = not variables.get("id")
        if inserted:
            report_id = base64.b64encode(f"View:{len(self.reports)}".encode()).decode()  # clients decode it
            self.reports[report_id] = Report(report_id, variables["entityName"], variables["projectName"])
        report = self.reports[variables["id"] or report_id]
        report.title, report.description = variables["displayName"], variables["description"]
        report.spec = variables["spec"]
        report.saves += 1
        return {"upsertView": {"view": {**_report_fields(report), "type": variables["type"]}, "inserted": inserted}}


def _without_internals(values: Json) -> Json:
    return {key: value for key, value in values.items() if key != "_wandb"}


def _project_fields(owner: Run | Sweep | Artifact) -> Json:
    entity = {"id": owner.entity, "name": owner.entity}
    return {"id": owner.project, "internalId": owner.project, "name": owner.project, "entity": entity}


def _report_fields(report: Report) -> Json:
    project = {"id": report.project, "name": report.project, "entityName": report.entity}
    texts = {"name": report.id, "displayName": report.title, "description": report.description, "spec": report.spec}
    return {"id": report.id, **texts, "project": project, "createdAt": TIME, "updatedAt": TIME}


def _artifact_fields(artifact: Artifact) -> Json:
    collection = {"__typename": "ArtifactSequence", "name": artifact.name, "project": _project_fields(artifact)}
    aliases = [
        {"__typename": "ArtifactAlias", "id": alias, "alias": alias, "artifactCollection": collection}
        for alias in (f"v{artifact.version}", *artifact.aliases)
    ]
    return {
        "__typename": "Artifact",
        "id": artifact.id,
        "artifactSequence": collection,
        "versionIndex": artifact.version,
        "artifactType": {"name": artifact.type},
        "description": artifact.description,
        "metadata": json.dumps(artifact.metadata),
        "ttlDurationSeconds": -2,
        "ttlIsInherited": True,
        "tags": [],
        "historyStep": None,
        "state": artifact.state,
        "size": sum(path.stat().st_size for path in artifact.files.values()),
        "digest": artifact.digest,
        "commitHash": None,
        "fileCount": len(artifact.files),
        "createdAt": TIME,
        "updatedAt": TIME,
        "aliases": aliases,
    }


def _content_path(digest: str) -> str:
    """Where a file with this base64 digest is uploaded to, whichever artifact it belongs to."""
    return f"contents/{base64.b64decode(digest).hex()}"


def _add(items: list[str], item: str) -> None:
    if item not in items:
        items.append(item)


class RequestHandler(BaseHTTPRequestHandler):
    """Takes requests of clients to the server's methods."""

    server: LoopbackServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = json.loads(self._body())
        stream = re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path)
        answer = None
        with self.server.lock:
            if self.path == "/graphql":
                answer = self.server.graphql(body)
            elif stream and unquote(stream[1]) in self.server.runs:
                answer = self.server.file_stream(self.server.runs[unquote(stream[1])], body)
        if answer is None:
            self._unknown()
        else:
            self._reply(200, json.dumps(answer).encode())

    def do_PUT(self) -> None:
        path = self.server.stored(self.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        arriving = path.with_name(f"{path.name}.{threading.get_ident()}")  # two runs may send the same content at the same time
        arriving.write_bytes(self._body())
        arriving.replace(path)
        with self.server.lock:
            self.server.note_upload(path)
        self._reply(200)

    def do_GET(self) -> None:
        path = self.server.stored(self.path)
        if path.is_file():
            self._reply(200, path.read_bytes())
        else:
            self._unknown()

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _reply(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _unknown(self) -> None:
        self.server.unknown.append(f"{self.command} {self.path}")
        self._reply(404)

    def log_message(self, *_: object) -> None:
        """Nothing: tests look at what arrived, not at a log."""


WANDB = [sys.executable, "-m", "wandb"]
FOLDERS = ("HOME", "WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_ARTIFACT_DIR")


class Client:
    """Runs commands in a folder of their own, with nothing of the user's environment but the search path."""

    def __init__(self, server: LoopbackServer, folder: Path) -> None:
        self.folder = folder
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self.environment = {"PATH": path, **dict.fromkeys(FOLDERS, str(folder)), **server.environment()}

    def start(self, *command: str, **environment: str) -> Popen[str]:
        return Popen(command, cwd=self.folder, env=self.environment | environment, text=True, stdout=PIPE, stderr=STDOUT)

    def run(self, *command: str, **environment: str) -> str:
        return finished(self.start(*command, **environment))


def finished(process: Popen[str]) -> str:
    """Output of a process that must succeed."""
    try:
        output, _ = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, output
    return output
