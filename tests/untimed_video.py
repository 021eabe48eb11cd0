"""A video that states no frame rate."""

import av


def write_untimed(path, frames):
    """Write frames (H, W, 3) as IVF (VP8): PyAV reads it, and no frame rate in it (`average_rate` is None)."""
    with av.open(str(path), "w", format="ivf") as container:
        stream = container.add_stream("libvpx", rate=24)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in [*(av.VideoFrame.from_ndarray(pixels) for pixels in frames), None]:
            container.mux(stream.encode(frame))
