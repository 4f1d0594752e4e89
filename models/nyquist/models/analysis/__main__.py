"""nyquist analyse: what networks and their downsampling do to a picture."""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import torch
from rich.console import Console
from rich.progress import Progress
from torch import nn

from nyquist.models.analysis import plots, tables
from nyquist.models.analysis.aliasing import leaked_energy, shift_error, stride_aliasing
from nyquist.models.analysis.analysed import AnalysedNetwork, load_subject, photographs
from nyquist.models.analysis.command_line import DEFAULT_SIZE, make_parser
from nyquist.models.analysis.comparisons import (
    block_figures,
    bottlenecks,
    field_growth,
    published_reducers,
    shift_errors,
    stems,
)
from nyquist.models.analysis.cost import cost, halving_blocks
from nyquist.models.analysis.effective_field import effective_field
from nyquist.models.analysis.gradient_monitor import own_answer_gradients
from nyquist.models.analysis.gradients import (
    coverage,
    gradient_pattern,
    gradient_statistics,
    standard_downsamplers,
)
from nyquist.models.analysis.module_graph import last_map_module, module_graph
from nyquist.models.analysis.onnx_graph import layout_of, onnx_graph, picture_shape
from nyquist.models.analysis.output import FigureTable, Output, figure
from nyquist.models.analysis.properties import forward_times, properties, saved_bytes
from nyquist.models.analysis.receptive_field import layer_fields, receptive_fields
from nyquist.models.analysis.training import (
    EXPERIMENTS,
    Outcome,
    TrainingRecipe,
    load_data,
    run_experiments,
)
from nyquist.models.analysis.transposed import backward_comparisons
from nyquist.models.analysis.uses import measure_uses
from nyquist.models.choices import DOWNSAMPLING_KINDS
from nyquist.models.layers.blur import BlurPool2d
from nyquist.models.layers.downsampling import DenseMaxPool2d

TIMED_BATCH = 8
FIELD_SIZE = 96
PATTERN_SIZE = 8
PICTURES = 16
Options = argparse.Namespace


def outputs(options: Options, output: Output) -> None:
    """Print the output sizes of the common windows, and what they leave unread."""
    output.show(tables.output_table(options.sizes))


def blocks(options: Options, output: Output) -> None:
    """Compare conv + pool with a strided, an anti-aliased and a linearly blurred convolution."""
    in_channels, out_channels = options.channels
    shape = (in_channels, options.sizes[0], options.sizes[0])
    compared = halving_blocks(in_channels, out_channels)
    costs = {name: cost(block, shape) for name, block in compared.items()}
    output.show(tables.block_table(costs))
    x = torch.randn(TIMED_BATCH, *shape, generator=torch.Generator().manual_seed(0))
    saved = {name: sum(saved_bytes(block, x).values()) for name, block in compared.items()}
    output.show(tables.block_time_table(saved, forward_times(compared, x)))


def layer_properties(options: Options, output: Output) -> None:
    """Compare strided convolution, pools and blur row by row, and draw their memory and time."""
    measured = properties(options.channels[0], options.sizes[0], TIMED_BATCH)
    output.show(tables.property_table(measured))
    path = options.plots / "properties.png"
    plots.plot_properties(measured, path)
    output.say(f"wrote {path}")


def backward(options: Options, output: Output) -> None:
    """Show that the backward pass of a strided convolution is a transposed one."""
    output.show(tables.backward_table(backward_comparisons()))
    path = options.plots / "fractional_stride.png"
    plots.plot_fractional_stride(path)
    output.say(f"wrote {path}")


def growth(options: Options, output: Output) -> None:
    """Compare how the receptive field grows, layer by layer, in three ways to halve a map."""
    grown = field_growth()
    output.show(tables.growth_table(grown))
    path = options.plots / "field_growth.png"
    plots.plot_field_growth(grown, path)
    output.say(f"wrote {path}")


def receptive_field(options: Options, output: Output) -> None:
    """Print the theoretical field layer by layer, and draw it over a picture."""
    if options.model.endswith(".onnx"):
        _onnx_receptive_field(Path(options.model), options, output)
    else:
        _receptive_field(_subject(options), options, output)


def effective(options: Options, output: Output) -> None:
    """Measure the effective field over noise like the pictures, and draw it with the theory."""
    if options.model:
        _effective_field(_subject(options), options, output)
        return
    fields = {}
    for kind in ("strided", "max_pool", "blur"):
        subject = load_subject("compact", {"downsampling": kind}, size=FIELD_SIZE)
        graph = module_graph(subject.network, subject.pictures[:1])
        layer = last_map_module(subject.network, graph)
        seen = effective_field(subject.network, subject.noise(PICTURES), layer)
        theory = receptive_fields(graph)[graph.index(layer)].rows
        output.show(tables.effective_table(seen, theory, f"{kind}: {layer}"))
        fields[kind] = seen, theory.size
    path = options.plots / "effective_fields.png"
    plots.plot_effective_fields(fields, path)
    output.say(f"wrote {path}")


def gradients(options: Options, output: Output) -> None:
    """Compare the gradients of downsampling layers, or watch those of MODEL."""
    if options.model:
        _monitor(_subject(options), options, output)
        return
    noise = torch.randn(4, 16, 28, 28, generator=torch.Generator().manual_seed(0))
    layers = standard_downsamplers(channels=16)
    measured = {name: gradient_statistics(layer, noise) for name, layer in layers.items()}
    output.show(tables.gradient_table(measured))
    patterns = {
        name: (coverage(layer, PATTERN_SIZE), gradient_pattern(layer, PATTERN_SIZE, (1, 1)))
        for name, layer in standard_downsamplers().items()
    }
    path = options.plots / "gradient_patterns.png"
    plots.plot_gradient_patterns(patterns, path)
    output.say(f"wrote {path}")


def aliasing(options: Options, output: Output) -> None:
    """Compare blur filters and shift errors, or measure every stride of MODEL."""
    if options.model:
        _stride_aliasing(_subject(options), options, output)
        return
    output.show(_filter_table(options.shift))
    path = options.plots / "filter_responses.png"
    plots.plot_filter_responses(path)
    output.say(f"wrote {path}")


def uses(options: Options, output: Output) -> None:
    """Measure what moving pictures do to MODEL, or to the families of the zoo."""
    families = [f"fashion_{kind}" for kind in DOWNSAMPLING_KINDS]
    subjects = (
        [_subject(options, options.pictures)]
        if options.model
        else [load_subject(name, options.built_with, options.pictures) for name in families]
    )
    measured = measure_uses(subjects)
    output.show(tables.use_table(measured, len(subjects[0].pictures)))
    output.show(tables.work_table(measured))
    path = options.plots / "consistency_distance.png"
    plots.plot_distances(measured, path)
    output.say(f"wrote {path}")


def train(options: Options, output: Output) -> None:
    """Train small networks that differ in how they halve; what is done already is not repeated."""
    data = load_data(options.data)
    usual = TrainingRecipe() if options.data else TrainingRecipe(images=400, epochs=24, batch=40)
    asked = {"images": options.images, "epochs": options.epochs}
    recipe = replace(usual, **{key: value for key, value in asked.items() if value is not None})
    names = options.only or tuple(EXPERIMENTS)
    file = options.plots / "training_runs.jsonl"
    outcomes: list[Outcome] = []
    start = perf_counter()
    try:
        with Progress(console=Console(stderr=True)) as progress:
            bar = progress.add_task("training", total=options.seeds * len(names))
            runs = run_experiments(
                names, data, recipe, options.seeds, file, lambda _name: progress.advance(bar)
            )
            outcomes.extend(runs)
    except KeyboardInterrupt:
        Console(stderr=True).print(f"stopped; the same command goes on from {file}")
        raise
    made = f"{data.name}, {recipe.epochs} x {recipe.images}"
    for table in tables.training_tables(outcomes, made):
        output.show(table)
    output.say(f"took {perf_counter() - start:.0f} s; runs are in {file}")
    if any(outcome.curve for outcome in outcomes):
        path = options.plots / "training_loss.png"
        plots.plot_training(outcomes, path)
        output.say(f"wrote {path}")


def reducers(options: Options, output: Output) -> None:  # noqa: ARG001 - as the others
    """Count what makes maps smaller in published networks."""
    output.show(tables.reducer_table(published_reducers()))


def stem_comparison(options: Options, output: Output) -> None:  # noqa: ARG001 - as the others
    """Compare the stems of five families, and their anti-aliased forms."""
    output.show(tables.stem_table({name: block_figures(stem) for name, stem in stems().items()}))


def bottleneck_comparison(options: Options, output: Output) -> None:  # noqa: ARG001 - as the others
    """Compare the bottlenecks v1 and v1.5 of ResNet-50."""
    output.show(tables.bottleneck_table(bottlenecks()))


def shift(options: Options, output: Output) -> None:
    """Compare what a shift does to each kind of downsampling."""
    shifts = tuple(dict.fromkeys((0.5, options.shift, 2.0)))
    output.show(tables.shift_table(shift_errors(shifts), shifts))


def everything(options: Options, output: Output) -> None:
    """Analyse MODEL: cost, receptive fields, aliasing, gradients; of a file what it can tell."""
    if options.model.endswith(".onnx"):
        receptive_field(options, output)
        return
    subject = _subject(options)
    channels, height, width = subject.pictures.shape[1:]
    output.show(tables.cost_table(cost(subject.network, (channels, height, width))))
    of_modules = (
        () if options.model.endswith(".pt2") else (_effective_field, _stride_aliasing, _monitor)
    )
    for part in (_receptive_field, *of_modules):
        try:
            part(subject, options, output)
        except ValueError as error:  # of attention no receptive field is known, but its gradients
            output.say(f"not measured: {error}")


COMMANDS: dict[str, Callable[[Options, Output], None]] = {
    "": everything,
    "uses": uses,
    "training": train,
    "reducers": reducers,
    "outputs": outputs,
    "blocks": blocks,
    "properties": layer_properties,
    "backward": backward,
    "field-growth": growth,
    "receptive-field": receptive_field,
    "effective-field": effective,
    "gradients": gradients,
    "stems": stem_comparison,
    "bottlenecks": bottleneck_comparison,
    "shift": shift,
    "aliasing": aliasing,
}


def _subject(options: Options, count: int = PICTURES) -> AnalysedNetwork:
    needs_modules = options.command not in ("", "receptive-field")
    if needs_modules and options.model.endswith((".onnx", ".pt2")):
        raise ValueError(
            f"{options.command} looks at the modules of a network, which {options.model} has not; "
            "receptive-field does without, and MODULE:FUNCTION has them"
        )
    return load_subject(options.model, options.built_with, count, options.size or DEFAULT_SIZE)


def _onnx_receptive_field(file: Path, options: Options, output: Output) -> None:
    if options.built_with:
        raise ValueError(f"{file} is built already and takes no {', '.join(options.built_with)}")
    size = (options.size, options.size) if options.size else None
    graph = onnx_graph(file, options.layout or layout_of(file), size)
    lines = layer_fields(graph)
    output.show(tables.field_table(lines))
    channels, height, width = picture_shape(graph)
    in_repository = file.stem == "model" and file.absolute().parent.name.isdecimal()
    name = file.absolute().parents[1].name if in_repository else file.stem
    path = options.plots / f"{name}_receptive_field.png"
    plots.plot_receptive_fields(photographs(channels, (height, width))[0], lines, path)
    output.say(f"wrote {path}")


def _receptive_field(subject: AnalysedNetwork, options: Options, output: Output) -> None:
    lines = layer_fields(module_graph(subject.network, subject.pictures[:1]))
    output.show(tables.field_table(lines))
    path = options.plots / f"{subject.name}_receptive_field.png"
    plots.plot_receptive_fields(subject.pictures[0], lines, path)
    output.say(f"wrote {path}")


def _effective_field(subject: AnalysedNetwork, options: Options, output: Output) -> None:
    graph = module_graph(subject.network, subject.pictures[:1])
    layer = options.layer or last_map_module(subject.network, graph)
    field = receptive_fields(graph)[graph.index(layer)]
    seen = effective_field(subject.network, subject.noise(PICTURES), layer)
    output.show(tables.effective_table(seen, field.rows, layer))
    path = options.plots / f"{subject.name}_effective_field.png"
    plots.plot_effective_field(seen, field, path)
    output.say(f"wrote {path}")


def _monitor(subject: AnalysedNetwork, options: Options, output: Output) -> None:  # noqa: ARG001 - as the others
    lines = own_answer_gradients(subject.network, subject.pictures)
    output.show(tables.monitor_table(lines))
    output.say("of the cross entropy of the network's own answers, on its pictures")


def _stride_aliasing(subject: AnalysedNetwork, options: Options, output: Output) -> None:
    lines = stride_aliasing(subject.network, subject.pictures)
    output.show(tables.aliasing_table(lines))
    path = options.plots / f"{subject.name}_aliasing.png"
    plots.plot_stride_aliasing(lines, path)
    output.say(f"wrote {path}")


def _filter_table(shift: float) -> FigureTable:
    """Lay out the filters: gain at the limit of stride 2, leakage, shift errors of layers."""
    noise = torch.randn(4, 16, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 16, 3, padding=1, bias=False, padding_mode="circular")
    dense = DenseMaxPool2d("circular")
    title = f"Blur at stride 2: leakage, and error under a shift by {shift:g} px"
    headers = ("leaks", "relu > blur", "relu > max > blur", "blur > relu")
    table = FigureTable(title, "taps", *headers)
    for taps in range(1, 8):
        blur = BlurPool2d(taps, 2, "circular")
        right = nn.Sequential(conv, nn.ReLU(), blur)
        maximum = nn.Sequential(conv, nn.ReLU(), dense, blur)
        wrong = nn.Sequential(conv, blur, nn.ReLU())
        errors = [shift_error(layers, noise, (0.0, shift)) for layers in (right, maximum, wrong)]
        shown = (figure(error, ".3f") for error in errors)
        table.add(taps, figure(leaked_energy(taps), ".2%"), *shown)
    return table


def run(options: Options) -> int:
    """Analyse what the options ask for; return the exit status."""
    torch.set_num_threads(1)
    output = Output(None if options.json else Console())
    try:
        with plots.style(dark=options.dark):
            COMMANDS[options.command](options, output)
        if options.output is not None:
            with options.output.open("w", encoding="utf-8") as file:
                output.write(file)
    except (OSError, ValueError) as error:
        Console(stderr=True).print(f"error: {error}", highlight=False, markup=False, soft_wrap=True)
        return 2
    if options.json:
        output.write(sys.stdout)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `nyquist analyse`; return the exit status."""
    return run(make_parser().parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
