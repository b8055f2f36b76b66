"""The command `sarwmix convert`.

    sarwmix convert benv2_finetune_checkpoint_best.pth runs/benv2_finetuned --verify
    sarwmix convert runs/finetuned finetuned.safetensors
    sarwmix convert --list

A published .pth file becomes a checkpoint folder, a checkpoint folder a .safetensors or .pth file with the published
names. Nothing in a .pth file is ever executed.
"""

import argparse
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.released import TILINGS
from sarwmix_jax.settings.model import STAGES

if TYPE_CHECKING:
    from sarwmix_jax.conversion.convert import Converted

_SUFFIXES = (".safetensors", ".pth")
_KINDS = {"pretrain": "pretraining", "classifier": "classifier", "flood": "flood"}


def define(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("source", nargs="?", type=Path, metavar="SOURCE", help="a .pth file, or a checkpoint folder")
    parser.add_argument(
        "destination",
        nargs="?",
        type=Path,
        metavar="DESTINATION",
        help="a new folder, or a new .safetensors or .pth file for a folder",
    )
    parser.add_argument("--list", action="store_true", help="print the released files that are known")
    parser.add_argument("--verify", action="store_true", help="compare every tensor, and run a probe that is kept")
    parser.add_argument("-v", "--verbose", action="store_true", help="with --verify, a line for every tensor")
    parser.add_argument("--sha256", metavar="HEX", help="refuse the file unless it has this hash")
    parser.add_argument("--kind", choices=_KINDS, help="what the file is, where its tensors leave it open")
    parser.add_argument("--tiling", choices=TILINGS, help="how a flood model's tiles were cut")
    parser.add_argument(
        "--statistics", metavar="NAME|NUMBERS", help="bigearthnet_v1, bigearthnet_v2, or mean VH,VV,std VH,VV"
    )
    parser.add_argument(
        "--decoder-heads", type=int, metavar="N", help="for decoders that are not of the published size"
    )
    parser.add_argument(
        "--norm-pix", choices=("yes", "no"), help="whether pretraining targets were standardised per cell"
    )
    parser.add_argument(
        "--image-size", type=int, metavar="PX", help="resize position and bias tables to this image side"
    )
    parser.add_argument("--windows", type=_windows, metavar="A,B,C,D", help="window sides per stage with --image-size")
    parser.add_argument(
        "--allow-missing", action="append", default=[], metavar="NAME", help="initialise this tensor if missing"
    )
    parser.add_argument("--allow-nonfinite", action="store_true", help="accept values that are not finite")
    parser.add_argument(
        "--with-optimizer", action="store_true", help="keep the optimiser state, to continue pretraining"
    )
    parser.add_argument("--mix-group", type=int, metavar="N", help="images per device of the run, for --with-optimizer")
    parser.add_argument(
        "--step", type=int, metavar="N", help="step of the checkpoint in a folder; by default the newest"
    )


def _windows(text: str) -> tuple[int, ...]:
    windows = tuple(int(part) for part in text.split(",") if part.isdecimal())
    if len(windows) != STAGES or text.count(",") != STAGES - 1 or min(windows) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not {STAGES} positive whole numbers")
    return windows


def run(options: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        UserError: The options do not fit together, or the conversion fails.
    """
    if options.list:
        from sarwmix_jax.conversion.identity import listing

        print(listing())
        return
    if options.source is None or (options.destination is None and not (options.source.is_dir() and options.verify)):
        raise UserError(
            "name a .pth file and a new folder, or a folder and a new .safetensors or .pth file; see --help"
        )
    if not options.source.is_dir():
        import_file(options)
    elif options.destination is not None:
        export_file(options)
    else:
        show_probe(options.source)


def import_file(options: argparse.Namespace) -> None:
    """Convert a `.pth` file to a checkpoint folder."""
    if options.step is not None or options.destination.suffix in _SUFFIXES:
        raise UserError(f"{options.source} is not a folder; --step, .safetensors and .pth belong to exports of folders")
    from sarwmix_jax.conversion.convert import ConversionRequest, check_free, convert, write
    from sarwmix_jax.conversion.hints import Hints

    check_free(options.destination)
    options.kind = _KINDS.get(options.kind)
    options.norm_pix = {"yes": True, "no": False}.get(options.norm_pix)
    request = ConversionRequest(hints=Hints(**_chosen(Hints, options)), **_chosen(ConversionRequest, options))
    converted = convert(request)
    print("\n".join(report(converted)))
    step = write(converted, options.destination)
    print(f"wrote {options.destination} (step {step})")
    if options.verify:
        from sarwmix_jax.conversion.proof import compare_tensors

        table, summary = compare_tensors(converted, options.destination)
        print("\n".join([*table, *summary] if options.verbose else summary))
        show_probe(options.destination)


def _chosen(what: type, options: argparse.Namespace) -> dict[str, Any]:
    """Values of the options that are fields of a dataclass; both use the same names."""
    return {field.name: vars(options)[field.name] for field in fields(what) if field.name in options}


def report(converted: "Converted") -> list[str]:
    """What was found in a file, line by line."""
    from sarwmix_jax.conversion.hints import NEEDS_NORM_PIX, option

    found, settings, released, source = converted.found, converted.settings, converted.released, converted.source
    known = f"{released.file}, {released.about}" if released else "unknown file, unverified"
    lines = [f"sha256 {source['sha256']}: {known}"]
    lines.append(
        f"kind {found.kind}, {settings.image_size} px, width {settings.embed_dim}, depths {settings.depths}, "
        f"heads {settings.num_heads}, windows {settings.window_sides}"
    )
    lines.append("epochs trained: " + ("not stated in the file" if source["epochs"] is None else str(source["epochs"])))
    if found.kind == "pretraining":
        depth, width, heads = settings.decoder_depth, settings.decoder_dim, settings.decoder_heads
        lines.append(f"decoder: {depth} blocks of width {width} with {heads} heads")
        if found.norm_pix is None:
            lines.append(f"what will not work without {option('norm_pix')} yes|no: {NEEDS_NORM_PIX}")
    else:
        lines.append(f"{found.classes} classes" + (f", tiling {found.tiling}" if found.tiling else ""))
    mean, std = found.statistics.mean_db, found.statistics.std_db
    lines.append(f"input VH, VV in dB, statistics {found.statistics_name}: mean {mean}, standard deviation {std}")
    arguments = [f"{name}={value}" for name, value in source["args_not_trusted"].items()]
    for what, names in (
        ("the file's own arguments (shown, not used)", arguments),
        ("resized", source["resized"]),
        ("missing, newly initialised", source["drawn"]),
        ("rounded from float64 to float32", converted.rounded),
    ):
        if names:
            lines.append(f"{what}: {', '.join(names)}")
    return lines


def show_probe(directory: Path) -> None:
    """Run and print the probe of a checkpoint folder."""
    from sarwmix_jax.conversion.proof import PROBE, run_probe, summary

    outputs, differences = run_probe(directory)
    print("\n".join(summary(outputs)))
    if differences is None:
        print(f"kept as {directory / PROBE}; --verify on the folder compares with it")
    else:
        print("largest difference from the kept outputs: " + ", ".join(f"{n} {d:.3g}" for n, d in differences.items()))


def export_file(options: argparse.Namespace) -> None:
    """Convert a checkpoint folder to a file with the published names."""
    if options.destination.suffix not in _SUFFIXES:
        raise UserError(f"{options.destination}: name a file that ends in {' or '.join(_SUFFIXES)}")
    from sarwmix_jax.conversion.export import export, write_pth, write_safetensors

    if options.destination.exists():
        raise UserError(f"{options.destination} exists; name another file")
    exported = export(options.source, options.step)
    writer = write_safetensors if options.destination.suffix == ".safetensors" else write_pth
    writer(exported, options.destination)
    print(f"wrote {options.destination}: {len(exported.tensors)} tensors of step {exported.step}")
