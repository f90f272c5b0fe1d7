"""MuJoCo models drawn without OpenGL, by MuJoCo's own ray casting.

`mujoco.Renderer` raises where there is no OpenGL library, as in most containers and on the nodes of many clusters, and
`steadyq evaluate --film-strip` has to work there too, since it is how one sees what a policy has learned. The other
ways to draw in software (OSMesa, Mesa's llvmpipe) are system libraries as well, which only an administrator installs.

Rays from the camera find the nearest geom, its distance and its normal; rays from the lights find what lies in shadow.
Lights, colours and the textures of planes are those of MuJoCo's OpenGL renderer. Textures on bodies become their mean
colour, transparent geoms are opaque, and there are no highlights, reflections or haze: on our tasks they are worth a
quarter of a grey level of 255. Sites, tendons and skins, which rays do not hit, are painted over it as flat polygons.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import mujoco
import numpy as np
from PIL import Image, ImageDraw
from scipy.spatial import ConvexHull

_SAMPLES = 2  # rays per pixel along each side, for smooth edges
_HORIZON = 1e10  # as far as a ray goes: what MuJoCo takes for infinity
_GROUPS = np.array(mujoco.MjvOption().geomgroup, np.uint8)  # the groups of geoms that are drawn
_GEOM, _SKIN = mujoco.mjtObj.mjOBJ_GEOM.value, mujoco.mjtGeom.mjGEOM_SKIN.value
_PLANE = mujoco.mjtGeom.mjGEOM_PLANE.value


def draw(model: Any, data: Any, camera: Any, *, height: int, width: int) -> np.ndarray:
    """Draw `data` (a `mujoco.MjData`) of `model` through a `mujoco.MjvCamera` as uint8 [H, W, 3]."""
    scene = mujoco.MjvScene(model, maxgeom=10_000)
    everything = mujoco.mjtCatBit.mjCAT_ALL.value
    mujoco.mjv_updateScene(model, data, mujoco.MjvOption(), None, camera, everything, scene)
    eye = _Eye.of(scene, rows=_SAMPLES * height, columns=_SAMPLES * width)
    colour, distance = _see(_World.of(model, data, scene, pixel=2 * eye.slope / eye.rows), eye.position, eye.rays())
    picture = colour.reshape(eye.rows, eye.columns, 3)
    _paint(picture, distance.reshape(eye.rows, eye.columns), _patches(model, scene), eye)
    picture = picture.reshape(height, _SAMPLES, width, _SAMPLES, 3).mean((1, 3))
    return (255 * picture.clip(0, 1) + 0.5).astype(np.uint8)


class _Eye(NamedTuple):
    """A pinhole camera."""

    position: np.ndarray  # [3]
    forward: np.ndarray  # [3], unit length, as the next two
    right: np.ndarray
    up: np.ndarray
    slope: float  # of the ray through the middle of the upper edge
    rows: int
    columns: int

    @classmethod
    def of(cls, scene: Any, *, rows: int, columns: int) -> "_Eye":
        # A free camera has two eyes, for stereo: one picture is what is seen from between them.
        eyes = [np.array([one.pos, one.forward, one.up], np.float64) for one in scene.camera]
        position, forward, up = np.mean(eyes, axis=0)
        slope = scene.camera[0].frustum_top / scene.camera[0].frustum_near
        return cls(position, forward, np.cross(forward, up), up, slope, rows, columns)

    def rays(self) -> np.ndarray:
        """The direction of each sample's ray, row by row: [N, 3], unit length."""
        x = ((np.arange(self.columns) + 0.5) * 2 - self.columns) / self.rows * self.slope
        y = (1 - (np.arange(self.rows) + 0.5) * 2 / self.rows) * self.slope
        rays = self.forward + x[None, :, None] * self.right + y[:, None, None] * self.up
        return (rays / np.linalg.norm(rays, axis=-1, keepdims=True)).reshape(-1, 3)

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where points [.., 3] appear as (column, row) [.., 2], and how far away they are [..]."""
        sight = points - self.position
        depth = np.maximum(sight @ self.forward, 1e-6)
        x, y = sight @ self.right / depth / self.slope, sight @ self.up / depth / self.slope
        place = np.stack([(x * self.rows + self.columns) / 2, (1 - y) * self.rows / 2], -1)
        return place, np.linalg.norm(sight, axis=-1)


class _World(NamedTuple):
    """What can be seen, with how each geom of the model [G] looks."""

    model: Any
    data: Any
    lights: list[Any]
    far: float  # where sight ends
    pixel: float  # angle between neighbouring rays
    rgb: np.ndarray  # [G, 3]
    planes: list[Any]  # the visible ones, as abstract geoms

    @classmethod
    def of(cls, model: Any, data: Any, scene: Any, *, pixel: float) -> "_World":
        geoms = [geom for geom in scene.geoms[: scene.ngeom] if geom.objtype == _GEOM]
        rgb = np.zeros((model.ngeom, 3))
        for geom in geoms:
            flat_texture = geom.texid < 0 or geom.type == _PLANE
            rgb[geom.objid] = geom.rgba[:3] * (1 if flat_texture else _mean_colour(_texture(model, geom.texid)))
        planes = [geom for geom in geoms if geom.type == _PLANE]
        lights, far = list(scene.lights[: scene.nlight]), scene.camera[0].frustum_far
        return cls(model, data, lights, far, pixel, rgb, planes)

    def cast(
        self, origin: np.ndarray, rays: np.ndarray, groups: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The geom [N] that each of `rays` [N, 3] hits first (-1 for none), its distance [N] and normal [N, 3]."""
        n = len(rays)
        geom, distance, normal = np.full(n, -1, np.int32), np.zeros(n), np.zeros((n, 3))
        if n:
            flat, out = np.ascontiguousarray(rays).reshape(-1), normal.reshape(-1)
            with _whole_bodies(self.model):
                mujoco.mj_multiRay(
                    self.model, self.data, origin, flat, groups, True, -1, geom, distance, out, n, _HORIZON
                )
        return geom, np.where(geom >= 0, distance, np.inf), normal


@contextmanager
def _whole_bodies(model: Any) -> Iterator[None]:
    """Make MuJoCo look for every geom of a body, for the time of a cast.

    `mj_multiRay` passes over a body when a ray misses its bounding box, which holds only the geoms that collide: others
    would be missing from the picture. The boxes serve the simulation too, hence as they were afterwards.
    """
    reach = np.zeros(model.nbody)  # from a body's centre of mass, where its box is centred
    offset = np.linalg.norm(model.geom_pos - model.body_ipos[model.geom_bodyid], axis=-1)
    np.maximum.at(reach, model.geom_bodyid, np.where(model.geom_rbound > 0, offset + model.geom_rbound, _HORIZON))
    reach[0] = _HORIZON  # the world has planes, and tasks move what belongs to it
    bodies = np.flatnonzero(model.body_bvhnum)
    boxes, roots = model.bvh_aabb, model.body_bvhadr[bodies]
    before = boxes[roots]
    boxes[roots, :3], boxes[roots, 3:] = 0, reach[bodies, None]
    try:
        yield
    finally:
        boxes[roots] = before


def _see(world: _World, origin: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The colour [N, 3] that comes along each ray [N, 3], and from how far [N]."""
    geom, distance, normal = world.cast(origin, rays, _GROUPS)
    colour = _sky(world.model, rays)
    hit = np.flatnonzero(geom >= 0)
    point = origin + distance[hit, None] * rays[hit]
    surface = world.rgb[geom[hit]]
    for plane in world.planes:
        here = geom[hit] == plane.objid
        if plane.texid >= 0 and here.any():
            slant = np.abs((rays[hit][here] * normal[hit][here]).sum(-1)).clip(1e-3)
            footprint = world.pixel * distance[hit][here] / slant
            surface[here] *= _floor(world.model, plane, point[here], footprint)
    colour[hit] = _light(world, geom[hit], point, normal[hit], surface)
    return colour, distance


def _light(world: _World, geom: np.ndarray, point: np.ndarray, normal: np.ndarray, surface: np.ndarray) -> np.ndarray:
    """The colour [N, 3] of points on surfaces under all lights: ambient, diffuse, shadow."""
    colour = np.zeros_like(surface)
    for light in world.lights:
        colour += light.ambient * surface
        if light.type == mujoco.mjtLightType.mjLIGHT_DIRECTIONAL.value:
            beam = np.broadcast_to(np.float64(light.dir), point.shape)
            source = None if light.headlight else -world.far * np.asarray(light.dir, np.float64)
        else:
            source = np.asarray(light.pos, np.float64)
            beam = point - source
            beam = beam / np.linalg.norm(beam, axis=-1, keepdims=True)
        facing = np.maximum(-(beam * normal).sum(-1), 0)
        if light.type == mujoco.mjtLightType.mjLIGHT_SPOT.value:
            angle = (beam @ np.float64(light.dir)).clip(0, 1)
            facing = facing * np.where(angle >= np.cos(np.radians(light.cutoff)), angle**light.exponent, 0)
        if light.castshadow and source is not None:
            facing = facing * ~_in_shadow(world, geom, point, source)
        colour += facing[:, None] * light.diffuse * surface
    return colour


def _in_shadow(world: _World, geom: np.ndarray, point: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Whether something else lies between a light and each point [N]."""
    way = point - source
    length = np.linalg.norm(way, axis=-1)
    first, distance, _ = world.cast(source, way / length[:, None], None if world.model.nskin else _GROUPS)
    return (first >= 0) & (first != geom) & (distance < 0.999 * length)


def _texture(model: Any, texture: int) -> np.ndarray:
    """The pixels of a texture, uint8 [H, W, 3]; a cube has its six faces one below the other."""
    height, width, channels = (int(of[texture]) for of in (model.tex_height, model.tex_width, model.tex_nchannel))
    start = int(model.tex_adr[texture])
    pixels = model.tex_data[start : start + height * width * channels].reshape(height, width, channels)
    return pixels[..., :3] if channels >= 3 else np.repeat(pixels[..., :1], 3, -1)


def _mean_colour(texture: np.ndarray) -> np.ndarray:
    """Of about ten thousand of a texture's pixels: float [3]."""
    rows, columns = (max(1, size // 100) for size in texture.shape[:2])
    return texture[::rows, ::columns].mean((0, 1)) / 255


def _floor(model: Any, plane: Any, point: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    """The texture of a plane at points [N, 3]; its mean colour where a pixel covers much of it, to avoid moire."""
    texture = _texture(model, plane.texid)
    local = (point - plane.pos) @ np.float64(plane.mat).reshape(3, 3)[:, :2]
    corner = np.maximum(plane.size[:2], 0)  # the texture starts there; an infinite plane has none
    scale = plane.texrepeat / (1 if plane.texuniform else np.where(corner > 0, corner, 1))
    place = ((local * [1, -1] + corner) * scale / 2) % 1
    rows, columns = texture.shape[:2]
    found = texture[(place[:, 1] * rows).astype(int), (place[:, 0] * columns).astype(int)] / 255
    blur = (2 * footprint * 0.5 * scale.max()).clip(0, 1)[:, None]
    return found + blur * (_mean_colour(texture) - found)


def _sky(model: Any, rays: np.ndarray) -> np.ndarray:
    """The background [N, 3]: the gradient of the model's sky box from nadir to zenith, without its stars."""
    boxes = np.flatnonzero(model.tex_type == mujoco.mjtTexture.mjTEXTURE_SKYBOX.value)
    if not len(boxes):
        return np.zeros((len(rays), 3))
    faces = _texture(model, int(boxes[0]))
    side = faces.reshape(-1, faces.shape[1], faces.shape[1], 3)[4 if len(faces) > faces.shape[1] else 0]
    rows = np.median(side[:, :: max(1, side.shape[1] // 50)], axis=1) / 255
    steep = rays[:, 2] / np.abs(rays[:, :2]).max(-1).clip(1e-9)
    return rows[((1 - steep.clip(-1, 1)) / 2 * (len(rows) - 1)).astype(int)]


class _Patches(NamedTuple):
    """Polygons of P corners each, in the colours they are seen in."""

    corners: np.ndarray  # [F, P, 3]
    rgb: np.ndarray  # [F, 3]
    hull: bool  # the outline is the hull of the corners, not their order


def _patches(model: Any, scene: Any) -> Iterator[_Patches]:
    """Everything in the scene that rays do not hit: sites and tendons as outlines, skins as triangles."""
    for thing in scene.geoms[: scene.ngeom]:
        if thing.type == _SKIN:
            yield _skin(model, scene, thing)
        elif thing.objtype != _GEOM and thing.type in _OUTLINES:
            if thing.type == mujoco.mjtGeom.mjGEOM_CAPSULE.value:
                local = _BALL * thing.size[0] + np.sign(_BALL[:, 2:]) * [0, 0, thing.size[2]]
            else:
                local = _OUTLINES[thing.type] * thing.size
            corners = local @ np.float64(thing.mat).reshape(3, 3).T + thing.pos
            yield _Patches(corners[None], np.array([thing.rgba[:3]]), hull=True)


def _skin(model: Any, scene: Any, thing: Any) -> _Patches:
    """The triangles of a skin that face the camera, shaded by how much they do."""
    number = thing.objid
    start, count, first = scene.skinvertadr[number], scene.skinvertnum[number], model.skin_faceadr[number]
    vertices = np.float64(scene.skinvert).reshape(-1, 3)[start : start + count]
    corners = vertices[model.skin_face[first : first + model.skin_facenum[number]]]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    facing = -normals @ np.float64(scene.camera[0].forward) / np.linalg.norm(normals, axis=-1).clip(1e-12)
    rgb = thing.rgba[:3] * (_mean_colour(_texture(model, thing.texid)) if thing.texid >= 0 else 1)
    ambient, diffuse = scene.lights[0].ambient, scene.lights[0].diffuse  # the headlight
    shown = facing > 0
    return _Patches(corners[shown], rgb * (ambient + diffuse * facing[shown, None]), hull=False)


def _ball() -> np.ndarray:
    """Points on the unit sphere."""
    height, angle = np.meshgrid(np.linspace(-1, 1, 9), np.linspace(0, 2 * np.pi, 16, endpoint=False))
    radius = np.sqrt(1 - height**2)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), height], -1).reshape(-1, 3)


_BALL = _ball()
_CUBE = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, -1).T
_ROLL = np.array([[np.cos(a), np.sin(a), z] for a in np.linspace(0, 2 * np.pi, 16) for z in (-1, 1)])
_OUTLINES = {
    mujoco.mjtGeom.mjGEOM_SPHERE.value: _BALL,
    mujoco.mjtGeom.mjGEOM_ELLIPSOID.value: _BALL,
    mujoco.mjtGeom.mjGEOM_CAPSULE.value: _BALL,
    mujoco.mjtGeom.mjGEOM_CYLINDER.value: _ROLL,
    mujoco.mjtGeom.mjGEOM_BOX.value: _CUBE,
}


def _paint(picture: np.ndarray, distance: np.ndarray, patches: Iterator[_Patches], eye: _Eye) -> None:
    """Paint patches into `picture` [R, C, 3], the farthest first, where nothing of `distance` [R, C] hides them."""
    flat = []
    for patch in patches:
        places, far = eye.project(patch.corners)
        nearest = far.min(-1) if patch.hull else far.mean(-1)
        for place, depth, rgb in zip(places, nearest, patch.rgb.clip(0, 1), strict=True):
            outline = place[ConvexHull(place).vertices] if patch.hull else place
            flat.append((float(depth), outline.ravel().tolist(), tuple((255 * rgb).astype(int).tolist())))
    if not flat:
        return
    colours, depths = Image.new("RGB", (eye.columns, eye.rows)), Image.new("F", (eye.columns, eye.rows), float("inf"))
    brush, plumb = ImageDraw.Draw(colours), ImageDraw.Draw(depths)
    for depth, outline, rgb in sorted(flat, key=lambda one: -one[0]):
        brush.polygon(outline, fill=rgb)
        plumb.polygon(outline, fill=depth)
    shown = np.asarray(depths) < distance
    picture[shown] = np.asarray(colours)[shown] / 255
