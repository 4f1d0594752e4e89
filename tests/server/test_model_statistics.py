from nyquist.server.telemetry.model_statistics import Statistics


def test_a_run_counts_for_each_of_its_requests_and_once_for_its_batch_size() -> None:
    statistics = Statistics()
    statistics.ran(requests=3, pictures=7, queue_s=1.5, gather_s=0.25, infer_s=2.0)
    message = statistics.message("m", "1")
    assert (message.inference_count, message.execution_count) == (7, 1)
    stages = message.inference_stats
    assert (stages.queue.count, stages.queue.ns) == (3, 1_500_000_000)
    assert (stages.compute_infer.count, stages.compute_infer.ns) == (3, 6_000_000_000)
    (batch,) = message.batch_stats
    assert (batch.batch_size, batch.compute_infer.count) == (7, 1)
    assert batch.compute_infer.ns == 2_000_000_000


def test_the_stages_are_counted_together_so_that_no_reader_finds_them_unequal() -> None:
    """perf_analyzer gives up on "Server side statistics compute counts must be the same"."""
    statistics = Statistics()
    for step, values in (("ran", (1, 1, 0.1, 0.1, 0.1)), ("answered", (0.5, 0.1))):
        getattr(statistics, step)(*values)
        stages = statistics.message("m", "1").inference_stats
        counts = {
            part.count
            for part in (
                stages.queue,
                stages.compute_input,
                stages.compute_infer,
                stages.compute_output,
            )
        }
        assert len(counts) == 1


def test_answers_and_failures_count_apart() -> None:
    statistics = Statistics()
    statistics.answered(0.5, encode_s=0.125)
    statistics.failed(ZeroDivisionError(), 0.25)
    stages = statistics.message("m", "1").inference_stats
    assert (stages.success.count, stages.success.ns) == (1, 500_000_000)
    assert (stages.fail.count, stages.fail.ns) == (1, 250_000_000)
    assert stages.compute_output.ns == 125_000_000
