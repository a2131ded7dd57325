"""Try a trained network in a browser: drop an image, see the five likeliest classes and what the network looked at.

python demo.py ckpt=runs/digits_lenet
"""

import logging
import os
import socket
import threading
from collections.abc import Iterator
from importlib.util import find_spec

from inference import checkpoints
from launch.main import imports_without_gc, quiet_lightning, run
from launch.validation import check_minimum
from results.errors import ConfigError
from results.run_folder import find_checkpoints

log = logging.getLogger(__name__)
HOST = "127.0.0.1"  # no other machine can open the page


def check(cfg) -> None:
    """Check what can be checked without torch."""
    if missing := [package for package in ("gradio", "captum") if not find_spec(package)]:
        raise ConfigError(f"demo.py needs {', '.join(missing)}, not installed: pip install -e '.[demo]'")
    check_minimum(cfg, {"port": 0})
    try:
        socket.create_server((HOST, cfg.port)).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(f"port={cfg.port} is in use or no port; expected 1024 to 65535, or 0 for any") from error
    find_checkpoints(cfg.ckpt)


def serve(cfg) -> None:
    """Serve the page for the network of ``cfg.ckpt`` until Ctrl-C."""
    check(cfg)
    with imports_without_gc():  # torch is imported here, after the config has been checked
        import captum.attr  # noqa: F401  (slow: not during the first answer)

    quiet_lightning()
    logging.getLogger("httpx").setLevel(logging.WARNING)  # Gradio requests its own page at the start
    os.environ["no_proxy"] = HOST  # and not through a proxy
    members, backbone = checkpoints.open_checkpoints(cfg.ckpt, cfg.trust)
    first = members[0].checkpoint
    page = build_page(checkpoints.TrainedClassifier(backbone, first["class_names"], first["preprocessing"]))
    options = {"share": False, "ssr_mode": False, "run_history": False, "footer_links": [], "show_error": True}
    options |= {"server_name": HOST, "server_port": cfg.port or None, "prevent_thread_lock": True, "quiet": True}
    try:
        log.info(f"{'page':<12} {page.launch(**options)[1]} (Ctrl-C ends it)")
        threading.Event().wait()
    finally:
        page.close(verbose=False)  # and delete what was uploaded


def build_page(network: checkpoints.TrainedClassifier):
    """A ``gradio.Blocks`` that shows what ``look`` yields for an uploaded file; it sends nothing to Gradio's makers."""
    import gradio

    def answer(file: str | None) -> Iterator[tuple]:
        try:
            yield from look(network, file) if file else [(None, None)]
        except ValueError as error:
            raise gradio.Error(str(error).replace(file, os.path.basename(file)), print_exception=False) from error

    with gradio.Blocks(title="demo", analytics_enabled=False, delete_cache=(60, 3600)) as page, gradio.Row():
        file = gradio.File(file_types=["image"], label="Image")  # gradio.Image would decode it, unlike predict.py
        with gradio.Column():
            classes = gradio.Label(num_top_classes=5, label="Likeliest classes")
            seen = gradio.Image(format="png", show_label=False, buttons=["fullscreen"])
        file.change(answer, file, [classes, seen])
    return page


def look(network: checkpoints.TrainedClassifier, file: str) -> Iterator[tuple]:
    """(probability by class, None), then (the same, a picture of what speaks for the answer: ``(H, W, 3)`` uint8)."""
    from callbacks.explanation import explained, overlaid
    from results.pictures import class_labels, picture_grid

    probabilities = network(file)[0]  # (num_classes,)
    found = dict(zip(network.class_names, probabilities.tolist(), strict=True))
    yield found, None
    pixels, best = network.read([file]), probabilities.argmax()  # (1, c, h, w) uint8
    maps = explained(network.backbone, network.preprocess.normalize(pixels), best[None], "occlusion")  # (1, h, w)
    titles = ["what the network sees", f"red: for {class_labels(network.class_names)[best]}\nblue: against it"]
    yield found, picture_grid([pixels[0].numpy(), overlaid(pixels, maps)[0].numpy()], titles)


if __name__ == "__main__":
    run(serve, "demo", check)
