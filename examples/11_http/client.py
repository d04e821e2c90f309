"""Detects in two images with one request of KServe's protocol, as Triton's client sends it."""

import cv2
import numpy as np
import tritonclient.http as triton

client = triton.InferenceServerClient("127.0.0.1:8932")
images = np.stack([cv2.imread(f"../../calib_data/00000{number}.jpg") for number in (0, 1)])
tensor = triton.InferInput("images", images.shape, "UINT8").set_data_from_numpy(images)
result = client.infer("parts_2to4", [tensor])
for count, boxes in zip(result.as_numpy("num_dets")[:, 0], result.as_numpy("det_boxes"), strict=True):
    print(f"{count} objects, the first at {boxes[0].round().tolist()}")
