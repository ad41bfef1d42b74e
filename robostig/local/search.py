"""Tuning jobs: training jobs one after the other, with hyperparameters that Optuna chooses."""

from __future__ import annotations

import contextlib
import json
import threading
import uuid
from datetime import datetime
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

from robostig._files import make_folder, replace_file
from robostig.local.answers import RefusedError
from robostig.local.jobs import TrainingJobs, check_name, make_arn, now

__all__ = ["TuningJobs"]

STRATEGIES = ("Bayesian", "Random")


class TuningJobs:
    """What CreateHyperParameterTuningJob and its like do.

    Parameters
    ----------
    folder
        Where requests are kept, a file each.
    jobs
        That run the trials.
    """

    def __init__(self, folder: Path, jobs: TrainingJobs) -> None:
        self.folder, self._jobs = make_folder(folder), jobs
        self._running: Dict[str, _Search] = {}

    def create(self, request: Dict[str, Any]) -> Dict[str, Any]:
        """Start a search, and return at once; as CreateHyperParameterTuningJob."""
        name = check_name("HyperParameterTuningJobName", request["HyperParameterTuningJobName"], 32)
        strategy = request["HyperParameterTuningJobConfig"]["Strategy"]
        if strategy not in STRATEGIES:
            raise RefusedError(f"the strategy {strategy} is SageMaker's alone; here there are {', '.join(STRATEGIES)}")
        if "TrainingJobDefinition" not in request:
            raise RefusedError("a search on this machine takes one TrainingJobDefinition")
        if (self.folder / f"{name}.json").exists():
            raise RefusedError(f"there is a tuning job {name} already; choose another name", "ResourceInUse")
        with replace_file(self.folder / f"{name}.json", "w") as file:
            file.write(json.dumps({**request, "CreationTime": now().isoformat()}, indent=2) + "\n")
        search = self._running[name] = _Search(request, self._jobs)
        search.start()
        return {"HyperParameterTuningJobArn": make_arn("hyper-parameter-tuning-job", name)}

    def describe(self, request: Dict[str, Any]) -> Dict[str, Any]:
        """Return a search's request, how it stands, and its best job; as DescribeHyperParameterTuningJob."""
        name = request["HyperParameterTuningJobName"]
        if not (self.folder / f"{name}.json").is_file():
            raise RefusedError(f"there is no tuning job {name} in {self.folder}")
        described: Dict[str, Any] = json.loads((self.folder / f"{name}.json").read_text())
        described["CreationTime"] = datetime.fromisoformat(described["CreationTime"])
        search, trials = self._running.get(name), self._summarize(described)
        states = [trial["TrainingJobStatus"] for trial in trials]
        wanted = described["HyperParameterTuningJobConfig"]["ResourceLimits"]["MaxNumberOfTrainingJobs"]
        failure = "" if search is None else search.failure
        if search.is_alive() if search else "InProgress" in states:  # without: another program's
            state = "InProgress"
        elif search is not None and search.is_stopped:
            state = "Stopped"
        elif not failure and len(trials) == wanted and "Completed" in states:
            state = "Completed"
        else:
            state, failure = "Failed", failure or f"{states.count('Completed')} of {wanted} training jobs completed"
        described.update(
            HyperParameterTuningJobArn=make_arn("hyper-parameter-tuning-job", name),
            HyperParameterTuningJobStatus=state,
            TrainingJobStatusCounters={
                "Completed": states.count("Completed"),
                "InProgress": states.count("InProgress"),
                "RetryableError": 0,
                "NonRetryableError": states.count("Failed"),
                "Stopped": states.count("Stopped"),
            },
        )
        if failure:
            described["FailureReason"] = failure
        scored = [trial for trial in trials if "FinalHyperParameterTuningJobObjectiveMetric" in trial]
        if scored:
            sign = -1 if _read_objective(described)["Type"] == "Maximize" else 1
            described["BestTrainingJob"] = min(
                scored, key=lambda trial: sign * trial["FinalHyperParameterTuningJobObjectiveMetric"]["Value"]
            )
        return described

    def list_trials(self, request: Dict[str, Any]) -> Dict[str, Any]:
        """Return summaries of a search's jobs; as ListTrainingJobsForHyperParameterTuningJob."""
        return {"TrainingJobSummaries": self._summarize(self.describe(request))}

    def stop(self, request: Dict[str, Any]) -> Dict[str, Any]:
        """End a search that this session has started; as StopHyperParameterTuningJob."""
        search = self._running.get(request["HyperParameterTuningJobName"])
        if search is None or not search.is_alive():
            raise RefusedError(f"there is no such search under way here: {request['HyperParameterTuningJobName']}")
        search.stop()
        return {}

    def wait(self, name: str, limit_s: float) -> bool:
        """Wait for a search, no longer than so many seconds, and return whether it is over."""
        search = self._running.get(name)
        if search is not None:
            search.join(limit_s)
        return search is None or not search.is_alive()

    def _summarize(self, search: Mapping[str, Any]) -> List[Dict[str, Any]]:
        """Return a search's jobs in their order, as SageMaker lists them."""
        name, objective = search["HyperParameterTuningJobName"], _read_objective(search)
        listed = self._jobs.list({"NameContains": f"{name}-", "SortOrder": "Ascending", "MaxResults": 10_000})
        tuned = {each["Name"] for ranges in _read_ranges(search).values() for each in ranges}
        summaries = []
        for trial in listed["TrainingJobSummaries"]:
            if not trial["TrainingJobName"].startswith(f"{name}-"):
                continue
            job = self._jobs.describe(trial)
            values = job["HyperParameters"]
            summary = {**trial, "TunedHyperParameters": {key: values[key] for key in values if key in tuned}}
            for metric in job["FinalMetricDataList"]:
                if metric["MetricName"] == objective["MetricName"]:
                    summary["FinalHyperParameterTuningJobObjectiveMetric"] = {
                        "Type": objective["Type"],
                        "MetricName": metric["MetricName"],
                        "Value": metric["Value"],
                    }
                    summary["ObjectiveStatus"] = "Succeeded"
            summaries.append(summary)
        return summaries


class _Search(threading.Thread):
    """One search, from its first job to its last."""

    def __init__(self, request: Mapping[str, Any], jobs: TrainingJobs) -> None:
        super().__init__(name=request["HyperParameterTuningJobName"], daemon=True)
        self.request, self._jobs = request, jobs
        self.failure, self.is_stopped = "", False
        self._job: Optional[str] = None

    def run(self) -> None:
        """Run as many jobs as were asked for."""
        try:
            self._search()
        except (RefusedError, OSError, ValueError) as error:
            self.failure = str(error)
        except Exception as error:  # whatever it is, somebody waits to be told
            self.failure = f"{type(error).__name__}: {error}"

    def stop(self) -> None:
        """Kill the job under way, and start no other."""
        self.is_stopped = True
        if self._job:
            with contextlib.suppress(RefusedError):  # it is over
                self._jobs.stop({"TrainingJobName": self._job})

    def _search(self) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        config, objective = self.request["HyperParameterTuningJobConfig"], _read_objective(self.request)
        samplers = {"Bayesian": optuna.samplers.TPESampler, "Random": optuna.samplers.RandomSampler}
        study = optuna.create_study(
            direction="maximize" if objective["Type"] == "Maximize" else "minimize",
            sampler=samplers[config["Strategy"]](seed=config.get("RandomSeed", 0)),
        )
        for number in range(config["ResourceLimits"]["MaxNumberOfTrainingJobs"]):
            if self.is_stopped:
                return
            trial = study.ask()
            definition = self.request["TrainingJobDefinition"]
            values = {
                **definition.get("StaticHyperParameters", {}),
                **_choose(trial, _read_ranges(self.request)),
                "_tuning_objective_metric": objective["MetricName"],
            }
            name = f"{self.name}-{number + 1:03d}-{uuid.uuid4().hex[:8]}"
            request = {_NAMES.get(key, key): value for key, value in definition.items() if key not in _OF_SEARCHES}
            request.update(TrainingJobName=name, HyperParameters=values)
            self._jobs.create(request)
            self._job = name
            if self.is_stopped:  # meanwhile
                self.stop()
            self._jobs.wait(name)
            job = self._jobs.describe(request)
            metrics = {metric["MetricName"]: metric["Value"] for metric in job["FinalMetricDataList"]}
            if job["TrainingJobStatus"] == "Completed" and objective["MetricName"] in metrics:
                study.tell(trial, metrics[objective["MetricName"]])
            else:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)


_NAMES = {"HyperParameterTuningResourceConfig": "ResourceConfig"}  # in a search's definition, and in a job's request
_OF_SEARCHES = ("StaticHyperParameters", "HyperParameterRanges", "DefinitionName", "TuningObjective")


def _read_objective(search: Mapping[str, Any]) -> Dict[str, str]:
    return dict(search["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"])


def _read_ranges(search: Mapping[str, Any]) -> Dict[str, List[Dict[str, Any]]]:
    return dict(search["HyperParameterTuningJobConfig"]["ParameterRanges"])


def _choose(trial: Any, ranges: Mapping[str, List[Dict[str, Any]]]) -> Dict[str, str]:
    """Return hyperparameters for a trial, as words, from SageMaker's ranges."""
    chosen = {}
    for each in ranges.get("ContinuousParameterRanges", []):
        low, high, is_log = float(each["MinValue"]), float(each["MaxValue"]), each.get("ScalingType") == "Logarithmic"
        chosen[each["Name"]] = repr(trial.suggest_float(each["Name"], low, high, log=is_log))
    for each in ranges.get("IntegerParameterRanges", []):
        low, high, is_log = int(each["MinValue"]), int(each["MaxValue"]), each.get("ScalingType") == "Logarithmic"
        chosen[each["Name"]] = str(trial.suggest_int(each["Name"], low, high, log=is_log))
    for each in ranges.get("CategoricalParameterRanges", []):
        chosen[each["Name"]] = trial.suggest_categorical(each["Name"], each["Values"])
    return chosen
