"""Print what the demo detector finds in the demo scene."""

import edgesparse

with edgesparse.load("demo", conf=0.5) as detector, edgesparse.open_source("demo") as source:
    for frame in source:
        for detection in detector(frame.image):
            left, top, right, bottom = detection.xyxy
            print(f"frame {frame.index}: {detection.name} {detection.confidence:.2f} at {left:.0f},{top:.0f}")
        if frame.index >= 10:
            break
