"""How jobs and the server that runs them look on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flows.cli.render import say, table
from flows.finetuning.epochs import rows_of, table_of


def submitted(document: Mapping[str, Any]) -> None:
    """Print where a submitted job went."""
    say(f"run {document['name']} ({document['run']}) is {document['state']} on {document['server']}")


def ended(document: Mapping[str, Any]) -> None:
    """Print how a run ended."""
    say(f"run {document['name']} is {document['state']}: {document['message']}", style="bold")


def scheduled(document: Mapping[str, Any]) -> None:
    """Print what became of a fine-tuning job that should run: submitted, already finished, or left for later."""
    job = f"fine-tuning job {document['job']}" if document["job"] else "fine-tuning"
    if "run" in document:
        say(f"{job}, attempt {document['attempt']}:")
        submitted(document)
    elif document["state"] == "finished":
        say(f"{job} has ended: {_verdict(document['passed'], document['model'])}")
    else:
        say(f"{job} is {document['state']}: {document['reason']}")
    if following := document.get("next"):
        say(f"next: {following}")


def finetuned(document: Mapping[str, Any]) -> None:
    """Print a finished fine-tuning: its curve, the gate's comparison, and the model that came of it."""
    table("curve", [_without_none(row) for row in table_of(rows_of(document))])
    gate, model, metrics = document["gate"], document["model"], document["metrics"]
    say(gate["reason"])
    if metrics:
        low, high = metrics["accuracy_interval"]
        say(
            f"accuracy {metrics['accuracy']:.3f} (95 %: {low:.3f} to {high:.3f}) on {metrics['num_images']:,} "
            f"{metrics['split']} pictures"
        )
    say(_verdict(gate["passed"], model), style="bold")
    if (serving := document.get("serving")) and not serving["promoted"]:
        say(f"version {serving['version']} serves: {serving['reason']}")


def audited(document: Mapping[str, Any]) -> None:
    """Print what every strategy reached, and what the plan's choice cost and saved."""
    rows = []
    for row in document["strategies"]:
        regret = document["constant_policies"][row["strategy"]]
        rows.append(
            {
                "strategy": row["strategy"],
                "accuracy": f"{row['accuracy']:.3f}",
                "below the best (points)": f"{regret['naive_points']:.1f}",
                "multiply-adds": f"{row['multiply_adds']:.2g}",
                "seconds": f"{row['seconds']:,.0f}",
                "": "delivered" if row["strategy"] == document["delivered"] else "",
            }
        )
    table(f"strategies on {document['num_test']:,} {document['test_split']} pictures", rows)
    regret, compute = document["regret"], document["compute"]
    say(document["gate"]["reason"])
    say(
        f"the plan chose {document['chosen']} and delivers {regret['chosen']}: regret {regret['points']:+.1f} points "
        f"by split halves, {regret['naive_points']:.1f} ± {regret['standard_error']:.1f} against {regret['best']}, "
        "the best on the same pictures",
        style="bold",
    )
    say(
        f"it spent {compute['share_of_finetuning']:.0%} of the multiply-adds of fine-tuning, "
        f"{compute['share_of_everything']:.0%} of trying everything (budget: {document['budget_epochs']} epochs)"
    )


def audits(document: Mapping[str, Any]) -> None:
    """Print a row for each audit, and the thresholds that they speak for."""
    rows = []
    for audit in document["audits"]:
        accuracy = {row["strategy"]: f"{row['accuracy']:.3f}" for row in audit["strategies"]}
        facts = {"dataset": audit["dataset"], "pictures": audit["signals"]["num_train"], "case": audit["case"]}
        rows.append(
            {**facts, **accuracy, "delivered": audit["delivered"], "regret": f"{audit['regret']['points']:.1f}"}
        )
    table("audits", rows)
    for refit in document["thresholds"] if rows else ():
        say(_refit(refit))


def _refit(refit: Mapping[str, Any]) -> str:
    known = f"{refit['what']} data: {refit['num_audits']} audits of {refit['num_datasets']} datasets"
    current = f"large from {refit['current']:,} pictures on (regret and compute {refit['current_cost']:.2f} points)"
    if refit["held_out_cost"] is None:
        return f"{known}, too few to refit from; {current}"
    threshold = f"from {refit['refitted']:,} pictures on" if refit["refitted"] else "never"
    return (
        f"{known} speak for {threshold} ({refit['refitted_cost']:.2f}; {refit['held_out_cost']:.2f} on datasets held "
        f"out); now {current}"
    )


def jobs(document: Mapping[str, Any]) -> None:
    """Print a row for each fine-tuning job, and for each of the latest runs on the server."""
    rows = []
    for job in document["jobs"]:
        status = job["status"]
        row = {
            "job": job["job"],
            "dataset": job["dataset"],
            "state": job["state"],
            "epoch": f"{status['arm']} {status['epoch']} of {status['num_epochs']}" if status else None,
            "gate": {True: "passed", False: "not passed", None: None}[job["passed"]],
            "last heard of": job["written"],
            "run": job["run_state"] and f"{job['run_state']} (attempt {job['attempt']}, {job['run']})",
        }
        rows.append(_without_none(row))
    table("jobs", rows)
    if document["server"]:
        table(f"latest runs on {document['server']}", [_without_none(run) for run in document["runs"]])


def cancelled(document: Mapping[str, Any]) -> None:
    """Print what was asked to stop."""
    if document["was_running"]:
        say(f"job {document['job']} runs here and stops at its next step; what it has done is kept")
    for run in document["runs"]:
        say(f"run {run['name']} ({run['run']}) is {run['state']}")
    if not document["was_running"] and not document["runs"]:
        say(f"job {document['job']} does not run, so there is nothing to stop")


def _without_none(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: "" if value is None else value for name, value in row.items()}


def _verdict(passed: bool, model: Mapping[str, Any] | None) -> str:
    if model:
        return f"model {model['name']}@{model['version']} in {model['path']}"
    return "it passed" if passed else "the head stays the model"
