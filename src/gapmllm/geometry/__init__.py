"""Cameras, rotations, boxes, exact IoU, pointmaps and alignment. The conventions stand in `camera.py`."""

from gapmllm.geometry.align import align_similarity as align_similarity
from gapmllm.geometry.boxes import BOX_EDGES as BOX_EDGES
from gapmllm.geometry.boxes import BOX_TRIANGLES as BOX_TRIANGLES
from gapmllm.geometry.boxes import CORNER_SIGNS as CORNER_SIGNS
from gapmllm.geometry.boxes import Boxes as Boxes
from gapmllm.geometry.camera import check_pose as check_pose
from gapmllm.geometry.camera import check_rotation as check_rotation
from gapmllm.geometry.camera import invert_pose as invert_pose
from gapmllm.geometry.camera import project as project
from gapmllm.geometry.camera import resize_intrinsics as resize_intrinsics
from gapmllm.geometry.camera import transform_points as transform_points
from gapmllm.geometry.camera import unproject as unproject
from gapmllm.geometry.camera import unproject_pixels as unproject_pixels
from gapmllm.geometry.iou import intersection_volumes as intersection_volumes
from gapmllm.geometry.iou import iou_matrix as iou_matrix
from gapmllm.geometry.iou import iou_pairs as iou_pairs
from gapmllm.geometry.pose_encoding import decode_cameras as decode_cameras
from gapmllm.geometry.pose_encoding import encode_cameras as encode_cameras
from gapmllm.geometry.rotation import EulerConvention as EulerConvention
from gapmllm.geometry.rotation import euler_to_matrix as euler_to_matrix
from gapmllm.geometry.rotation import matrix_to_euler as matrix_to_euler
from gapmllm.geometry.rotation import matrix_to_quaternion as matrix_to_quaternion
from gapmllm.geometry.rotation import nearest_rotation as nearest_rotation
from gapmllm.geometry.rotation import quaternion_to_matrix as quaternion_to_matrix
