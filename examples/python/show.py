"""Shows a live image in a matplotlib window: `python show.py adf`. Needs matplotlib, numpy and pyzmq."""

import argparse

import matplotlib.pyplot as plt
import numpy

from ronchi_live import Live

arguments = argparse.ArgumentParser(description=__doc__)
arguments.add_argument("name", help="a result with two axes, e.g. adf")
arguments.add_argument("--from", dest="endpoint", default="tcp://127.0.0.1:8601", help="where the receiver publishes")
arguments.add_argument("--save", metavar="FILE", help="no window: write a picture when the acquisition has ended")
asked = arguments.parse_args()

live = Live(asked.endpoint)
figure, axes = plt.subplots()
picture = None
while plt.fignum_exists(figure.number):
    changed = {name for name, _, _ in live.update(0.05)}
    image = live.images.get(asked.name)
    if asked.name in changed and numpy.isfinite(image).any():
        if picture is None or picture.get_array().shape != image.shape:
            axes.clear()
            axes.set_facecolor("0.8")  # What is not measured yet shows through.
            picture = axes.imshow(image, cmap="viridis")
        picture.set_data(image)
        picture.set_clim(*numpy.nanpercentile(image, (1, 99)))
        done = numpy.isfinite(image).mean()
        axes.set_title(f"{asked.name}: {live.state}, {done:.0%}")
    if asked.save and live.state in ("complete", "interrupted", "failed") and picture is not None:
        figure.savefig(asked.save)
        break
    if not asked.save:
        plt.pause(0.01)
live.close()
