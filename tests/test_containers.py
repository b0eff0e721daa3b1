"""The container files say what is so. No engine is needed: commands and settings are held against what they name."""

import fnmatch
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from flows.service.client import RUNS_AT_A_TIME
from pipeline.decision.schedule import CHECKPOINT_SECONDS

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OURS = ("server", "deploy", "worker-cpu", "worker-gpu")
WORKERS = ("worker-cpu", "worker-gpu")
NOT_OF_PREFECT = {"HEALTH_URL", "DO_NOT_TRACK", "PYTHONSAFEPATH"}  # the Dockerfile's, many programs', Python's


def read_instructions():
    """The Dockerfile as (instruction, rest) pairs."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def parse_settings(name):
    """A file of KEY=value lines."""
    lines = (ROOT / name).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


INSTRUCTIONS = read_instructions()
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
SETTINGS = parse_settings("headstart.env")


# ── the image ────────────────────────────────────────────────────────────────────────────────────


def test_what_the_image_copies_is_there_and_is_given_to_the_engine():
    copied = [
        source
        for instruction, rest in INSTRUCTIONS
        if instruction == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    ]
    let_through = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert {"prefect.yaml", "constraints.txt", "flows"} <= set(copied)
    assert sorted(set(copied)) == sorted(let_through)
    assert [name for name in copied if not (ROOT / name).exists()] == []
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {*wheel["packages"], *wheel["force-include"]} <= set(copied)  # else the wheel could not be built there


def test_nothing_secret_and_nothing_large_is_given_to_the_engine():
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert rules[0] == "*"  # only what is named after it
    assert not any(fnmatch.fnmatch(".env", rule.removeprefix("!")) for rule in rules[1:])


def test_what_comes_from_the_package_index_is_pinned():
    installs = [part for _, rest in INSTRUCTIONS for part in rest.split("&&") if "pip install" in part]
    assert len(installs) == 2
    for command in installs:
        assert "--constraint constraints.txt" in command or "--no-deps" in command, command


def test_the_extras_that_images_are_built_with_exist():
    (default,) = (rest.partition("=")[2] for instruction, rest in INSTRUCTIONS if instruction == "ARG")
    asked = [default, SERVICES["worker-gpu"]["build"]["args"]["EXTRAS"]]
    for extras in asked:
        assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
    assert "cuda" in asked[1]


def test_the_image_runs_as_a_user_who_is_a_number_and_not_root():
    users = [rest for instruction, rest in INSTRUCTIONS if instruction == "USER"]
    assert len(users) == 1
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[0])


def test_the_image_names_its_health_and_takes_any_command():
    instructions = [instruction for instruction, _ in INSTRUCTIONS]
    assert "HEALTHCHECK" in instructions
    assert "ENTRYPOINT" not in instructions
    assert dict(INSTRUCTIONS)["CMD"] == '["headstart", "--help"]'


@pytest.mark.parametrize("url", ["", "http://127.0.0.1:9/health"], ids=["none is named", "nobody answers"])
def test_the_health_check_fails_only_where_somebody_should_answer(url):
    (command,) = re.findall(r"CMD (\[.*\])", dict(INSTRUCTIONS)["HEALTHCHECK"])
    arguments = yaml.safe_load(command)
    finished = subprocess.run(
        [sys.executable, *arguments[1:]], env={"HEALTH_URL": url}, capture_output=True, text=True, check=False
    )
    assert (arguments[0], bool(finished.returncode)) == ("python", bool(url)), finished.stderr


def test_every_image_has_a_version_and_ours_is_that_of_the_project():
    bases = [rest.split()[0] for instruction, rest in INSTRUCTIONS if instruction == "FROM"]
    images = [service["image"] for service in SERVICES.values()]
    for image in [base for base in bases if base != "dependencies"] + images:
        tag = image.partition(":")[2]
        assert tag, image
        assert tag != "latest", image
    assert {SERVICES[name]["image"] for name in OURS} == {
        f"headstart:{PROJECT['version']}",
        f"headstart:{PROJECT['version']}-gpu",
    }


# ── the services ─────────────────────────────────────────────────────────────────────────────────


def test_services_wait_for_what_they_need():
    needs = {
        name: {other: how["condition"] for other, how in service.get("depends_on", {}).items()}
        for name, service in SERVICES.items()
    }
    assert needs == {
        "database": {},
        "server": {"database": "service_healthy"},
        "deploy": {"server": "service_healthy"},
        "worker-cpu": {"deploy": "service_completed_successfully"},
        "worker-gpu": {"deploy": "service_completed_successfully"},
    }
    assert "healthcheck" in SERVICES["database"]
    for name in ("server", *WORKERS):
        assert SERVICES[name]["environment"]["HEALTH_URL"].endswith("/health")


def test_nothing_is_reached_from_outside_but_the_server_and_that_from_its_host_only():
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"server": ["127.0.0.1:4200:4200"]}
    assert SERVICES["database"]["networks"] == ["database"]
    assert COMPOSE["networks"]["database"] == {"internal": True}


def test_every_secret_comes_from_outside_and_goes_no_further_than_it_must():
    needed = {}
    for name, service in SERVICES.items():
        for key, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|AUTH|SECRET|TOKEN|KEY", key):
                assert re.match(r"\$\{\w+:\?|/run/secrets/", value), f"{name}: {key}"
                needed.setdefault(key, set()).add(name)
    assert needed == {
        "POSTGRES_PASSWORD_FILE": {"database"},
        "PREFECT_SERVER_DATABASE_PASSWORD": {"server"},
        "PREFECT_SERVER_API_AUTH_STRING": {"server"},
        "PREFECT_API_AUTH_STRING": {"deploy", *WORKERS},
    }
    assert not [key for key in SETTINGS if re.search(r"PASSWORD|AUTH|SECRET|TOKEN|CONNECTION_URL", key)]


def test_what_the_services_must_be_told_is_in_the_example_and_empty_there():
    asked = set(re.findall(r"\$\{(\w+)", (ROOT / "compose.yaml").read_text()))
    assert parse_settings(".env.example") == dict.fromkeys(asked, "")
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()


def test_ours_run_with_nothing_more_than_they_need():
    for name in OURS:
        service = SERVICES[name]
        assert (service["read_only"], service["tmpfs"], service["init"]) == (True, ["/tmp"], True), name
        assert (service["cap_drop"], service["security_opt"]) == (["ALL"], ["no-new-privileges:true"]), name
        assert "privileged" not in service


def test_volumes_are_declared_and_the_image_owns_the_places_where_they_are_mounted():
    mounted = {
        tuple(volume.split(":")[:2])
        for service in SERVICES.values()
        for volume in service.get("volumes", [])
        if re.match(r"\w+:", volume)
    }
    assert {name for name, _ in mounted} == set(COMPOSE["volumes"])
    made = next(rest for instruction, rest in INSTRUCTIONS if instruction == "RUN" and "--owner" in rest).split()
    assert {place for name, place in mounted if name != "database"} <= set(made)


def test_pictures_and_deployments_are_read_and_never_written():
    read_only = [volume for service in SERVICES.values() for volume in service.get("volumes", []) if volume[0] in "$."]
    assert len(read_only) == 3
    assert all(volume.endswith(":ro") for volume in read_only)


def test_a_worker_is_given_more_time_to_stop_than_lies_between_two_checkpoints():
    for name in WORKERS:
        (minutes,) = re.fullmatch(r"(\d+)m", SERVICES[name]["stop_grace_period"]).groups()
        assert int(minutes) * 60 > CHECKPOINT_SECONDS


def test_only_the_gpu_worker_waits_to_be_asked_for_and_has_the_gpus():
    assert [name for name, service in SERVICES.items() if "profiles" in service] == ["worker-gpu"]
    (device,) = SERVICES["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])


def test_each_worker_serves_a_pool_of_ours_with_its_number_of_runs():
    served = {}
    for name in WORKERS:
        command = SERVICES[name]["command"]
        served[command[command.index("--pool") + 1]] = int(command[command.index("--limit") + 1])
    assert served == RUNS_AT_A_TIME


def test_everything_but_the_one_shot_comes_back_after_a_restart_of_the_host():
    again = {name: service["restart"] for name, service in SERVICES.items()}
    assert again.pop("deploy").startswith("on-failure")
    assert set(again.values()) == {"unless-stopped"}


# ── what they name ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.prefect
@pytest.mark.parametrize("words", ["prefect server start", "prefect worker start", "headstart deploy"])
def test_every_command_is_a_real_one_with_real_options(words):
    program, *rest = words.split()
    module = {"headstart": "flows.cli.app", "prefect": "prefect"}[program]
    finished = subprocess.run(
        [sys.executable, "-m", module, *rest, "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    known = set(re.findall(r"--[a-z-]+", finished.stdout))
    for name in OURS:
        command = SERVICES[name]["command"]
        if command[: len(rest) + 1] == words.split():
            assert {word for word in command if word.startswith("--")} <= known, command


def test_no_service_runs_another_command():
    begun = {tuple(word for word in SERVICES[name]["command"][:3] if word[0] != "-") for name in OURS}
    assert begun == {("prefect", "server", "start"), ("prefect", "worker", "start"), ("headstart", "deploy")}


@pytest.mark.prefect
def test_every_setting_is_one_that_prefect_knows(monkeypatch):
    from prefect.settings import Settings

    named = dict(SETTINGS)
    for name in OURS:
        named |= SERVICES[name]["environment"]
    before = Settings().to_environment_variables(exclude_unset=True)
    for key, value in named.items():
        monkeypatch.delenv(key, raising=False)
        if key not in NOT_OF_PREFECT:
            monkeypatch.setenv(key, value)
    known = Settings().to_environment_variables(exclude_unset=True)
    assert len(known.keys() - before.keys()) == len(named.keys() - NOT_OF_PREFECT - before.keys()), known


def test_the_settings_mean_the_same_to_a_shell_as_to_a_reader_of_lines():
    script = f"set -a; . {shlex.quote(str(ROOT / 'headstart.env'))}; env"
    said = subprocess.run(["/bin/sh", "-c", script], env={}, capture_output=True, text=True, check=True).stdout
    from_shell = dict(line.split("=", 1) for line in said.splitlines())
    assert {key: from_shell[key] for key in SETTINGS} == SETTINGS
    assert [service["env_file"] for service in SERVICES.values() if "env_file" in service] == ["headstart.env"] * 4


def test_the_settings_name_a_server_on_the_loopback_and_no_usage_figures():
    assert SETTINGS["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"
    assert SETTINGS["PREFECT_WORKER_WEBSERVER_HOST"] == "127.0.0.1"
    assert (SETTINGS["DO_NOT_TRACK"], SETTINGS["PREFECT_SERVER_ANALYTICS_ENABLED"]) == ("1", "false")


def test_no_process_takes_a_file_of_its_folder_for_one_of_our_packages():
    assert SETTINGS["PYTHONSAFEPATH"] == "1"
    assert any(rest.startswith("PATH=") and "PYTHONSAFEPATH=1" in rest for kind, rest in INSTRUCTIONS if kind == "ENV")
