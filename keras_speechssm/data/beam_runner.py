"""The shards of a preparation on Apache Beam: many machines, one worker a shard at a time.

Needs the extra `beam`. The transforms are those of one machine (`make_shard`), so a store made
half here and half there is the same store.
"""

from collections.abc import Iterator, Sequence

from keras_speechssm.data.sequence_shards import ShardTask, make_shard, read_report


def make_shards_with_beam(
    tasks: Sequence[ShardTask], options: Sequence[str]
) -> Iterator[tuple[int, dict]]:
    """Makes the shards in a Beam pipeline, waits for its end, and gives what they hold.

    Args:
        tasks: one a shard. Their folders must be mounted under the same paths on all workers
            and here.
        options: of the pipeline, as on its command line: `--runner=DataflowRunner`, ...

    Returns:
        Number and report of each shard, in order.
    """
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    with beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
        _ = (
            pipeline
            | "Shards" >> beam.Create(list(tasks))
            | "Spread" >> beam.Reshuffle()
            | "Make" >> beam.Map(make_shard)
        )
    for task in tasks:
        yield task.number, read_report(task)
