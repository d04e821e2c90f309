"""Use a detector on image files, and work with its detections."""

import cv2

import edgesparse

with edgesparse.load("detector.yaml") as detector:
    detections = detector("parts/images/000000.jpg")
    print(f"{len(detections)} detections:", ", ".join(detections.names))

    sure = detections[detections.confidence > 0.9]  # a mask, a slice and an index work as in NumPy
    print(f"{len(sure)} of them above 0.9; the first:", sure[0])

    image = cv2.imread("parts/images/000001.jpg")
    batch = detector([image, "parts/images/000002.jpg"])
    print("detections in two images:", [len(detections) for detections in batch])
