"""What lands on the MLflow run of a model."""

from pathlib import Path

from mlflow.tracking import MlflowClient

from clips_pipeline.registry.evaluation_log import log_report


def test_a_report_becomes_an_artifact_of_the_run(store: str, tmp_path: Path) -> None:
    report = tmp_path / "data_health.html"
    report.write_text("<p>fine</p>")
    client = MlflowClient()
    run_id = client.create_run("0").info.run_id
    log_report(run_id, report)
    log_report(run_id, report)
    assert [file.path for file in client.list_artifacts(run_id)] == ["data_health.html"]
    assert Path(client.download_artifacts(run_id, "data_health.html")).read_text() == "<p>fine</p>"


def test_a_training_that_was_not_tracked_has_no_run(tmp_path: Path) -> None:
    log_report(None, tmp_path / "not even there.html")
