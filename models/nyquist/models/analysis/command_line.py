"""The command line of `nyquist analyse`. Without torch, which --help is not to wait for."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from nyquist.models.choices import DOWNSAMPLING_KINDS, MAX_TAPS
from nyquist.models.spec import Option

DEFAULT_SIZE = 224
MODELS = """\
MODEL is a model of the zoo, an architecture or MODULE:FUNCTION; or a file: of torch.export.save
(.pt2: cost and receptive field) or ONNX (.onnx: receptive field)."""
COMMANDS = {
    "outputs": "Print the output sizes of the common windows, and what they leave unread.",
    "blocks": "Compare conv + pool with strided, anti-aliased and linearly blurred convolutions.",
    "properties": "Compare strided convolution, pools and blur row by row: memory, work, time.",
    "backward": "Show that the backward pass of a strided convolution is a transposed one.",
    "field-growth": "Compare how the receptive field grows in three ways to halve a map.",
    "receptive-field": "Print the theoretical field layer by layer, and draw it over a picture.",
    "effective-field": "Measure the effective field of MODEL, or compare it for ways to halve.",
    "gradients": "Compare the gradients of downsampling layers, or watch those of MODEL.",
    "stems": "Compare the stems of five families, and their anti-aliased forms.",
    "bottlenecks": "Compare the bottlenecks v1 and v1.5 of ResNet-50.",
    "shift": "Compare what a shift does to each kind of downsampling.",
    "aliasing": "Compare blur filters and shift errors, or measure every stride of MODEL.",
    "uses": "Measure what moving pictures do to MODEL, or to the families of the zoo.",
    "training": "Train small networks that differ in how they halve, and compare them.",
    "reducers": "Count what makes maps smaller in published networks.",
}


class _Parser(argparse.ArgumentParser):
    """Takes a lone word that is no command for a MODEL, of which everything is asked."""

    def parse_args(  # type: ignore[override] # argparse overloads it, for namespaces of other kinds
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Parse, and settle which word is which."""
        options = super().parse_args(args, namespace)
        if options.command not in COMMANDS:
            if options.model:
                self.error(f"no command {options.command!r}; choose from {', '.join(COMMANDS)}")
            options.command, options.model = "", options.command
        if options.command == "receptive-field" and not options.model:
            self.error(f"{options.command} needs a MODEL")
        options.sizes = options.sizes or _sizes(options.command)
        named = {"downsampling": options.downsampling, "taps": options.taps}
        options.built_with = {key: value for key, value in named.items() if value is not None}
        options.built_with |= dict(options.option)
        return options


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of `nyquist analyse`."""
    parser = _Parser(
        prog="nyquist analyse",
        usage="%(prog)s MODEL [options], or %(prog)s COMMAND [MODEL] [options]",
        description=f"Measure what networks and their downsampling do to a picture.\n\n{MODELS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"  {name:16} {words}" for name, words in COMMANDS.items()),
    )
    parser.add_argument("command", metavar="COMMAND", help="one of those below, or MODEL for all")
    parser.add_argument("model", nargs="?", default="", metavar="MODEL")
    parser.add_argument("--downsampling", choices=DOWNSAMPLING_KINDS, help="of an architecture")
    parser.add_argument("--taps", type=int, metavar="N", help=f"of its blur, 1 to {MAX_TAPS}")
    parser.add_argument(
        "--option",
        type=_option,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="another option of an architecture or of the function; may be repeated",
    )
    parser.add_argument("--layer", default="", help="to look through (the last map)")
    parser.add_argument("--size", type=int, help=f"of a picture, pixels ({DEFAULT_SIZE})")
    parser.add_argument("--layout", choices=("CHW", "HWC"), help="of an ONNX file (its own)")
    parser.add_argument("--sizes", type=int, nargs="+", default=None, help="of maps, for outputs")
    parser.add_argument(
        "--channels", type=int, nargs=2, default=(64, 128), help="for blocks and properties"
    )
    parser.add_argument(
        "--shift", type=float, default=1.0, help="for shift and aliasing, px (%(default)s)"
    )
    parser.add_argument("--pictures", type=int, default=60, help="for uses (%(default)s)")
    training = parser.add_argument_group("training")
    training.add_argument("--only", nargs="+", metavar="NAME", help="experiments (all)")
    training.add_argument(
        "--data", type=Path, metavar="DIR", help="Fashion-MNIST, IDX files (the committed sample)"
    )
    training.add_argument("--seeds", type=int, default=5, help="(%(default)s)")
    training.add_argument("--images", type=int, help="to train on (3200; of the sample 400)")
    training.add_argument("--epochs", type=int, help="(3; on the sample 24)")
    parser.add_argument("--plots", type=Path, default=Path("analysis_plots"), help="folder")
    parser.add_argument("--dark", action="store_true", help="plots for a dark page")
    parser.add_argument("--json", action="store_true", help="print JSON in place of tables")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write that JSON there, too")
    return parser


def _option(word: str) -> tuple[str, Option]:
    """Parse KEY=VALUE; a value that is JSON's true, false or a number is one."""
    key, sign, text = word.partition("=")
    if not (key and sign):
        raise argparse.ArgumentTypeError(f"is written KEY=VALUE, got {word!r}")
    try:
        value = json.loads(text)
    except ValueError:
        return key, text
    return key, value if isinstance(value, bool | int | float) else text


def _sizes(command: str) -> Sequence[int]:
    return [56] if command in ("blocks", "properties") else [28, 7, 32, 112, 224]
