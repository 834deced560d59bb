// Points and thick lines by plain WebGL.
"use strict";
function makeDrawing(gl) {
  gl.enable(gl.DEPTH_TEST);
  gl.enable(gl.BLEND);
  gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA);

  function program(vertex, fragment) {
    const made = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      gl.attachShader(made, shader);
    }
    gl.linkProgram(made);
    if (!gl.getProgramParameter(made, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(made));
    return made;
  }

  const pointProgram = program(
    `attribute vec3 place; attribute vec3 color; varying vec3 shade;
     uniform mat4 matrix; uniform vec3 origin, step; uniform float size, cut, most;
     void main() {
       vec3 world = origin + step * place;
       gl_Position = world.z > cut ? vec4(2.0, 2.0, 2.0, 1.0) : matrix * vec4(world, 1.0);
       gl_PointSize = clamp(size / gl_Position.w, 1.0, most);
       shade = color;
     }`,
    `precision mediump float; varying vec3 shade;
     void main() {
       if (distance(gl_PointCoord, vec2(0.5)) > 0.5) discard;
       gl_FragColor = vec4(shade, 1.0);
     }`);

  // WebGL's own lines are one pixel thin: each segment is two triangles, as wide as wanted on the screen.
  const lineProgram = program(
    `attribute vec3 start, end, color; attribute vec3 corner; varying vec3 shade; varying float along, dashed;
     uniform mat4 matrix; uniform vec2 screen; uniform float width;
     const float NEAR = 0.02;
     void main() {
       vec4 a = matrix * vec4(start, 1.0), b = matrix * vec4(end, 1.0);
       if (a.w < NEAR && b.w > NEAR) a = mix(a, b, (NEAR - a.w) / (b.w - a.w));
       else if (b.w < NEAR && a.w > NEAR) b = mix(b, a, (NEAR - b.w) / (a.w - b.w));
       vec2 way = (b.xy / b.w - a.xy / a.w) * screen;
       way = length(way) > 0.0 ? normalize(way) : vec2(1.0, 0.0);
       gl_Position = corner.x > 0.5 ? b : a;
       gl_Position.xy += vec2(-way.y, way.x) * corner.y * width / screen * gl_Position.w;
       along = corner.x * distance(start, end); dashed = corner.z; shade = color;
     }`,
    `precision mediump float; varying vec3 shade; varying float along, dashed; uniform float opacity;
     void main() {
       if (dashed > 0.5 && fract(along / 0.12) > 0.55) discard;
       gl_FragColor = vec4(shade, opacity);
     }`);

  function buffer(data) {
    const made = gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, made);
    gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
    return made;
  }

  function attribute(made, name, kind, normal, stride, offset) {
    const place = gl.getAttribLocation(made, name);
    gl.enableVertexAttribArray(place);
    gl.vertexAttribPointer(place, 3, kind, normal, stride, offset);
  }

  function use(made, values) {
    gl.useProgram(made);
    for (const [name, value] of Object.entries(values)) {
      const place = gl.getUniformLocation(made, name);
      if (name === "matrix") gl.uniformMatrix4fv(place, false, value);
      else gl[`uniform${value.length ?? 1}fv`](place, [value].flat());
    }
  }

  // segments: [start, end, colour, dashed] each
  const CORNERS = [[0, -1], [1, -1], [1, 1], [0, -1], [1, 1], [0, 1]]; // at the start or the end, left or right
  function lines(segments) {
    const rows = segments.flatMap(([start, end, color, dashed]) => CORNERS.flatMap(([t, side]) =>
      [...start, ...end, ...color.map((value) => value / 255), t, side, dashed ? 1 : 0]));
    return { data: buffer(new Float32Array(rows)), count: segments.length * CORNERS.length };
  }

  // uniforms: matrix, screen, width
  function drawLines(made, uniforms) {
    gl.bindBuffer(gl.ARRAY_BUFFER, made.data);
    ["start", "end", "color", "corner"].forEach((name, i) => attribute(lineProgram, name, gl.FLOAT, false, 48, 12 * i));
    // Once as they are, and once more, faint, where points hide them.
    for (const [test, opacity] of [[gl.LEQUAL, 1], [gl.GREATER, 0.3]]) {
      gl.depthFunc(test);
      gl.depthMask(test === gl.LEQUAL);
      use(lineProgram, { ...uniforms, opacity });
      gl.drawArrays(gl.TRIANGLES, 0, made.count);
    }
    gl.depthFunc(gl.LEQUAL);
    gl.depthMask(true);
  }

  const packed = (text) => buffer(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)));
  function points({ xyz, rgb, origin, step, count }) {
    return { places: packed(xyz), colors: packed(rgb), uniforms: { origin, step }, count };
  }

  // uniforms: matrix, size, most, cut
  function drawPoints(made, uniforms) {
    use(pointProgram, { ...made.uniforms, ...uniforms });
    gl.bindBuffer(gl.ARRAY_BUFFER, made.places);
    attribute(pointProgram, "place", gl.SHORT, false, 6, 0);
    gl.bindBuffer(gl.ARRAY_BUFFER, made.colors);
    attribute(pointProgram, "color", gl.UNSIGNED_BYTE, true, 3, 0);
    gl.drawArrays(gl.POINTS, 0, made.count);
  }

  function clear(width, height) {
    gl.viewport(0, 0, width, height);
    gl.clearColor(0.075, 0.09, 0.115, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
  }

  return { lines, drawLines, points, drawPoints, clear };
}
