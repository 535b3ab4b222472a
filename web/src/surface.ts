// One picture on one canvas: numbers become colours on the graphics card, or, without WebGL2, in a loop.

import { type MapName, type Stretch, fraction, table } from "./colour";

export interface Plane {
  height: number;
  width: number;
  values: Float32Array; // NaN: not measured.
  weights?: Float32Array; // Brightness 0..1 of every pixel; 1 when absent.
  front: number; // Pixels in C order before which a hole is a hole, and not still to be scanned.
}

export interface Look {
  low: number;
  high: number;
  stretch: Stretch;
  map: MapName;
  holes: "missing" | "waiting"; // What a hole behind the front is.
}

const STRETCHES: Stretch[] = ["linear", "sqrt", "log"];
// Stands for NaN on the card, where compilers may take NaN tests away.
const HOLE = -3e38;

const VERTEX = `#version 300 es
void main() { gl_Position = vec4(vec2((gl_VertexID << 1) & 2, gl_VertexID & 2) * 2.0 - 1.0, 0.0, 1.0); }`;

const FRAGMENT = `#version 300 es
precision highp float;
precision highp int;
precision highp sampler2D;
uniform sampler2D values, weights, colours;
uniform vec2 size, canvas, limits;
uniform float front, density;
uniform int stretch, missing, weighted;
out vec4 colour;

vec3 hatch(vec2 at, vec3 line, vec3 ground, float pitch) {
  float across = mod(at.x + at.y, pitch * density);
  return across < 1.5 * density ? line : ground;
}

void main() {
  vec2 at = vec2(gl_FragCoord.x, canvas.y - gl_FragCoord.y);
  ivec2 pixel = ivec2(min(at / canvas * size, size - 1.0));
  float value = texelFetch(values, pixel, 0).r;
  if (value < -2.9e38) {
    bool behind = float(pixel.y) * size.x + float(pixel.x) < front;
    vec2 dots = floor(at / (2.0 * density));
    if (!behind) colour = vec4(hatch(at, vec3(0.18, 0.2, 0.23), vec3(0.09, 0.1, 0.115), 10.0), 1.0);
    else if (missing == 1) colour = vec4(hatch(at, vec3(1.0, 0.5, 0.96), vec3(0.6, 0.08, 0.55), 6.0), 1.0);
    else colour = vec4(mod(dots.x + dots.y, 2.0) < 1.0 ? vec3(0.36, 0.41, 0.48) : vec3(0.13, 0.145, 0.17), 1.0);
    return;
  }
  float span = limits.y - limits.x;
  float above = span > 0.0 ? clamp((value - limits.x) / span, 0.0, 1.0) : 0.5;
  if (span > 0.0 && stretch == 1) above = sqrt(above);
  if (span > 0.0 && stretch == 2) above = log(1.0 + above * 999.0) / log(1000.0);
  vec3 shown = texelFetch(colours, ivec2(int(above * 255.0 + 0.5), 0), 0).rgb;
  if (weighted == 1) shown *= texelFetch(weights, pixel, 0).r;
  colour = vec4(shown, 1.0);
}`;

interface Painter {
  upload(plane: Plane): void;
  paint(plane: Plane, look: Look, density: number): void;
}

export class Surface {
  private readonly painter: Painter;
  readonly kind: "webgl2" | "2d";

  constructor(readonly canvas: HTMLCanvasElement) {
    const gl = canvas.getContext("webgl2", { alpha: false, antialias: false, powerPreference: "low-power" });
    this.kind = gl ? "webgl2" : "2d";
    this.painter = gl ? new Card(gl) : new Loop(canvas);
  }

  upload(plane: Plane): void {
    this.painter.upload(plane);
  }

  paint(plane: Plane, look: Look): void {
    this.painter.paint(plane, look, window.devicePixelRatio || 1);
  }

  // Paints it in another size for a moment, for `use` to copy.
  paintAt(width: number, height: number, plane: Plane, look: Look, use: (canvas: HTMLCanvasElement) => void): void {
    const { canvas } = this;
    const before = [canvas.width, canvas.height] as const;
    [canvas.width, canvas.height] = [width, height];
    this.painter.paint(plane, look, 1);
    use(canvas);
    [canvas.width, canvas.height] = before;
    this.paint(plane, look);
  }
}

class Card implements Painter {
  private readonly program: WebGLProgram;
  private readonly textures: Record<"values" | "weights" | "colours", WebGLTexture>;
  private size: [number, number] = [0, 0];
  private map: MapName | undefined;
  private staged = new Float32Array(0);

  constructor(private readonly gl: WebGL2RenderingContext) {
    this.program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]] as const) {
      const shader = gl.createShader(kind)!;
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(this.program, shader);
    }
    gl.linkProgram(this.program);
    if (!gl.getProgramParameter(this.program, gl.LINK_STATUS) && !gl.isContextLost()) {
      throw new Error(gl.getProgramInfoLog(this.program) ?? "the shaders do not link");
    }
    gl.useProgram(this.program);
    this.textures = { values: this.texture(0, "values"), weights: this.texture(1, "weights"), colours: this.texture(2, "colours") };
  }

  private at(name: string): WebGLUniformLocation | null {
    return this.gl.getUniformLocation(this.program, name);
  }

  private texture(unit: number, name: string): WebGLTexture {
    const gl = this.gl;
    const texture = gl.createTexture();
    gl.activeTexture(gl.TEXTURE0 + unit);
    gl.bindTexture(gl.TEXTURE_2D, texture);
    for (const filter of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, filter, gl.NEAREST);
    for (const wrap of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, wrap, gl.CLAMP_TO_EDGE);
    gl.uniform1i(this.at(name), unit);
    return texture;
  }

  upload(plane: Plane): void {
    const { values, weights, height, width } = plane;
    if (this.staged.length !== values.length) this.staged = new Float32Array(values.length);
    for (let i = 0; i < values.length; i++) this.staged[i] = values[i] === values[i] ? values[i]! : HOLE;
    this.fill("values", 0, this.staged, height, width);
    if (weights) this.fill("weights", 1, weights, height, width);
    this.size = [height, width];
  }

  private fill(name: "values" | "weights", unit: number, data: Float32Array, height: number, width: number): void {
    const gl = this.gl;
    gl.activeTexture(gl.TEXTURE0 + unit);
    gl.bindTexture(gl.TEXTURE_2D, this.textures[name]);
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 4);
    const isSame = name === "values" && this.size[0] === height && this.size[1] === width;
    if (isSame) gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, width, height, gl.RED, gl.FLOAT, data);
    else gl.texImage2D(gl.TEXTURE_2D, 0, gl.R32F, width, height, 0, gl.RED, gl.FLOAT, data);
  }

  paint(plane: Plane, look: Look, density: number): void {
    const gl = this.gl;
    if (look.map !== this.map) {
      this.map = look.map;
      gl.activeTexture(gl.TEXTURE2);
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, 256, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, table(look.map));
    }
    gl.viewport(0, 0, gl.drawingBufferWidth, gl.drawingBufferHeight);
    gl.uniform2f(this.at("size"), plane.width, plane.height);
    gl.uniform2f(this.at("canvas"), gl.drawingBufferWidth, gl.drawingBufferHeight);
    gl.uniform2f(this.at("limits"), look.low, look.high);
    gl.uniform1f(this.at("front"), plane.front);
    gl.uniform1f(this.at("density"), density);
    gl.uniform1i(this.at("stretch"), STRETCHES.indexOf(look.stretch));
    gl.uniform1i(this.at("missing"), look.holes === "missing" ? 1 : 0);
    gl.uniform1i(this.at("weighted"), plane.weights ? 1 : 0);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }
}

// Without WebGL2: one colour per pixel of the picture, stretched by the browser.
class Loop implements Painter {
  private readonly buffer = document.createElement("canvas");

  constructor(private readonly canvas: HTMLCanvasElement) {}

  upload(): void {
    // Everything is done when it is painted.
  }

  paint(plane: Plane, look: Look): void {
    const { height, width, values, weights, front } = plane;
    if (height * width === 0) return;
    this.buffer.width = width;
    this.buffer.height = height;
    const inner = this.buffer.getContext("2d")!;
    const image = inner.createImageData(width, height);
    const colours = table(look.map);
    for (let i = 0; i < values.length; i++) {
      const value = values[i]!;
      if (value === value) {
        const at = Math.round(fraction(value, look.low, look.high, look.stretch) * 255) * 4;
        const weight = weights ? weights[i]! : 1;
        for (let c = 0; c < 3; c++) image.data[i * 4 + c] = colours[at + c]! * weight;
      } else {
        const isLine = (Math.floor(i / width) + i) % 4 === 0;
        const shade = i >= front ? (isLine ? [46, 51, 59] : [23, 26, 29]) : look.holes === "missing" ? (isLine ? [255, 128, 245] : [153, 20, 140]) : isLine ? [128, 140, 153] : [23, 26, 29];
        for (let c = 0; c < 3; c++) image.data[i * 4 + c] = shade[c]!;
      }
      image.data[i * 4 + 3] = 255;
    }
    inner.putImageData(image, 0, 0);
    const outer = this.canvas.getContext("2d")!;
    outer.imageSmoothingEnabled = false;
    outer.drawImage(this.buffer, 0, 0, this.canvas.width, this.canvas.height);
  }
}
