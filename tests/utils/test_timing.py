"""The stages of --profile: nested ones, threads, processes, the table and its file."""

import csv
import multiprocessing
import threading
import time

import pytest

from utils.timing import COLUMNS, FILE_NAME, UNTIMED, VAL, Profile, StageTimes

PAUSE = 0.05  # seconds


def pause(times, stage):
    with times(stage):
        time.sleep(PAUSE)


def by_stage(times):
    return {(stage, where): seconds for stage, where, seconds, *_ in times.rows()}


def test_an_inner_stage_is_not_counted_twice():
    times = StageTimes()
    with times("outer"):
        time.sleep(PAUSE)
        pause(times, "inner")
    found = by_stage(times)
    assert found["inner", "main"] >= PAUSE and found["outer", "main"] >= PAUSE
    shares = [row[3] for row in times.rows() if row[1] == "main"]
    assert sum(shares) == pytest.approx(1, abs=1e-3)


def test_what_threads_do_stands_beside():
    times = StageTimes()
    thread = threading.Thread(target=pause, args=(times, "writing"))
    thread.start()
    thread.join()
    assert by_stage(times)["writing", "beside"] >= PAUSE
    assert ("writing", "main") not in by_stage(times)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_what_processes_do_stands_beside():
    times = StageTimes()
    processes = [multiprocessing.get_context("fork").Process(target=pause, args=(times, "loading")) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert by_stage(times)["loading", "beside"] >= 2 * PAUSE


def test_a_validation_has_stages_and_images_of_its_own():
    times = StageTimes()
    pause(times, "forward")
    pause(times.validation(), "NMS")
    times.count(10)
    times.validation().count(5)
    milliseconds = {stage: (seconds, ms) for stage, _, seconds, _, ms in times.rows()}
    assert milliseconds["forward"][1] == pytest.approx(milliseconds["forward"][0] * 1e3 / 10)
    assert milliseconds[VAL + "NMS"][1] == pytest.approx(milliseconds[VAL + "NMS"][0] * 1e3 / 5)


def test_waiting_for_items():
    def slow():
        for i in range(3):
            time.sleep(PAUSE)
            yield i

    times = StageTimes()
    assert list(times.each("waiting", slow())) == [0, 1, 2]
    assert by_stage(times)["waiting", "main"] >= 3 * PAUSE
    assert list(UNTIMED.each("waiting", [1, 2])) == [1, 2]


def test_an_error_closes_its_stage():
    times = StageTimes()
    with pytest.raises(KeyError), times("forward"):
        raise KeyError
    pause(times, "step")
    assert by_stage(times)["forward", "main"] < PAUSE <= by_stage(times)["step", "main"]


def test_the_table_and_its_file(tmp_path, caplog):
    times = StageTimes()
    pause(times, "forward")
    with caplog.at_level("INFO", "yolov5_edgevit"):
        times.report(tmp_path)
    rows = list(csv.DictReader((tmp_path / FILE_NAME).open()))
    assert tuple(rows[0]) == COLUMNS and {row["stage"] for row in rows} == {"forward", "other"}
    assert "forward" in caplog.text and "Share" in caplog.text


def test_without_the_flag_there_is_nothing(tmp_path):
    with UNTIMED("forward"), UNTIMED.validation()("NMS"):
        UNTIMED.count(3)
    UNTIMED.on("cuda").report(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("times", [UNTIMED, StageTimes()])
def test_a_stopwatch_measures_a_stage_with_and_without_the_flag(times):
    with times("inference", Profile()) as stopwatch:
        time.sleep(PAUSE)
    assert stopwatch.t == stopwatch.dt >= PAUSE
