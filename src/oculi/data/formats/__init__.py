"""Other conventions live here and nowhere else: COCO, VOC, YOLO, COLMAP, read and written."""
