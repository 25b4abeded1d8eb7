"""Signs of life of a trial."""

from vimss.search.heartbeat import Heartbeat


def test_progress_is_a_sign_of_life_and_the_longest_interval_begins_with_the_first_one(tmp_path):
    heartbeat = Heartbeat(tmp_path / "progress", now=0.0)
    heartbeat.poll(5.0)
    assert heartbeat.last == 0.0
    (tmp_path / "progress").write_text("12.000")
    heartbeat.poll(7.0)
    heartbeat.poll(8.0)
    assert (heartbeat.last, heartbeat.longest_interval) == (7.0, 0.0)
    heartbeat.report(20.0)
    heartbeat.report(24.0)
    assert (heartbeat.last, heartbeat.longest_interval) == (24.0, 13.0)


def test_a_trial_is_overdue_after_the_limit_of_the_place_and_ten_of_its_intervals(tmp_path):
    heartbeat = Heartbeat(tmp_path / "progress", now=0.0)
    assert not heartbeat.overdue(600.0, 600.0)
    assert heartbeat.overdue(601.0, 600.0).startswith("no progress for 601 s, at most 600 allowed")
    heartbeat.report(100.0)
    assert heartbeat.overdue(701.0, 600.0), "the start is no interval"
    heartbeat.report(200.0)
    assert not heartbeat.overdue(1200.0, 600.0)
    assert heartbeat.overdue(1201.0, 600.0).startswith("no progress for 1001 s, at most 1000 allowed")


def test_the_time_in_which_the_search_itself_stood_still_does_not_count(tmp_path):
    heartbeat = Heartbeat(tmp_path / "progress", now=0.0)
    heartbeat.report(50.0)
    heartbeat.pause(5000.0)
    assert not heartbeat.overdue(5100.0, 600.0)
    heartbeat.report(5100.0)
    assert heartbeat.longest_interval == 50.0


def test_a_trial_may_wait_for_the_cores_of_a_shared_cluster(tmp_path):
    heartbeat = Heartbeat(tmp_path / "progress", now=0.0, waits_for_cores=True)
    heartbeat.poll(5000.0)
    assert not heartbeat.overdue(5000.0, 600.0)
    (tmp_path / "progress").write_text("begun")
    heartbeat.poll(5001.0)
    assert heartbeat.overdue(5700.0, 600.0)
