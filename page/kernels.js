// The memory of the networks, and the products of matrices: in WebAssembly, which multiplies four
// numbers at once, or in JavaScript where the browser does not have that.
"use strict";

// kernels.wat, compiled by tools/kernels.py, in base64.
const COMPILED = `AGFzbQEAAAABFAJgCH9/f39/f39/AGAFf39/f38AAhABBHBhZ2UGbWVtb3J5AgABAwMCAAEHGgILYWRkX3Byb2R1Y3QAAAhtdWx0
aXBseQABCoAGAtQDAg1/C3sgBkECdCELA0BBACEIA0AgACAIIAFsaiENIA0gAWohDiAOIAFqIQ8gDyABaiEQIAMgCUECdGohDCAE
IAkgCCAGbGpBAnRqIREgESALaiESIBIgC2ohEyATIAtqIRQgEf0ABAAhGCAR/QAEECEcIBL9AAQAIRkgEv0ABBAhHSAT/QAEACEa
IBP9AAQQIR4gFP0ABAAhGyAU/QAEECEfIAchCgNAIAz9AAQAIRYgDP0ABBAhFyAN/QkCACEVIBggFSAW/eYB/eQBIRggHCAVIBf9
5gH95AEhHCAO/QkCACEVIBkgFSAW/eYB/eQBIRkgHSAVIBf95gH95AEhHSAP/QkCACEVIBogFSAW/eYB/eQBIRogHiAVIBf95gH9
5AEhHiAQ/QkCACEVIBsgFSAW/eYB/eQBIRsgHyAVIBf95gH95AEhHyANIAJqIQ0gDiACaiEOIA8gAmohDyAQIAJqIRAgDCALaiEM
IApBAWsiCg0ACyARIBj9CwQAIBEgHP0LBBAgEiAZ/QsEACASIB39CwQQIBMgGv0LBAAgEyAe/QsEECAUIBv9CwQAIBQgH/0LBBAg
CEEEaiEIIAggBUkNAAsgCUEIaiEJIAkgBkkNAAsLpwIDA38BfQR7IAMgAkECdGohByAHIAJBD3FBAnRrIQYDQCADIQX9DAAAAAAA
AAAAAAAAAAAAAAAiCSIKIgshDAJAA0AgBSAGTw0BIAkgAP0ABAAgBf0ABAD95gH95AEhCSAKIAD9AAQQIAX9AAQQ/eYB/eQBIQog
CyAA/QAEICAF/QAEIP3mAf3kASELIAwgAP0ABDAgBf0ABDD95gH95AEhDCAAQcAAaiEAIAVBwABqIQUMAAsLIAkgCv3kASALIAz9
5AH95AEhCSAJ/R8AIAn9HwGSIAn9HwIgCf0fA5KSIQgCQANAIAUgB08NASAIIAAqAgAgBSoCAJSSIQggAEEEaiEAIAVBBGohBQwA
CwsgBCAIOAIAIARBBGohBCABQQFrIgENAAsLALcCBG5hbWUC5wECACAAAWEBA3JvdwIGY29sdW1uAwFiBAFjBQFNBgFOBwFLCAFp
CQFqCgFrCwRuZXh0DARhdF9iDQJhMA4CYTEPAmEyEAJhMxECYzASAmMxEwJjMhQCYzMVAXgWBGxlZnQXBXJpZ2h0GAVsZWZ0MBkF
bGVmdDEaBWxlZnQyGwVsZWZ0MxwGcmlnaHQwHQZyaWdodDEeBnJpZ2h0Mh8GcmlnaHQzAQ0ABm1hdHJpeAEEcm93cwIHY29sdW1u
cwMBeAQBeQUCYXQGBXdob2xlBwNlbmQIA3N1bQkCczAKAnMxCwJzMgwCczMDRgIAAwAHY29sdW1ucwEEcm93cwIFdGVybXMBBQAI
ZWFjaF9yb3cBB25vX21vcmUCB3NpeHRlZW4DB25vX3Jlc3QEBHJlc3Q=`;

const PAGE = 1 << 14; // float32 in a page of WebAssembly's memory
const ALIGNED = 16; // each array begins at a multiple of so many float32, with a cache line
const TERMS_AT_ONCE = 256; // of a product's sums; so that what they need stays in a core's cache

let memory = null; // that of this worker's network

class Memory {
  // WebAssembly reaches no memory but its own. So arrays that take part in products are made here.
  // widest: the longest vector that a matrix is multiplied with, or that is the result.
  constructor(floats, widest = 1) {
    const pages = Math.ceil((floats + 2 * widest + 3 * ALIGNED) / PAGE);
    const bytes = Uint8Array.from(atob(COMPILED), (one) => one.charCodeAt(0));
    try {
      const memory = new WebAssembly.Memory({ initial: pages });
      const program = new WebAssembly.Module(bytes);
      this.buffer = memory.buffer;
      this.kernels = new WebAssembly.Instance(program, { page: { memory } }).exports;
      this.fast = true;
    } catch {
      this.fast = false; // the browser is too old for this program
      this.buffer = new ArrayBuffer(pages * PAGE * 4);
      this.kernels = kernels_in_javascript(this.buffer);
    }
    this.taken = 0; // float32
    this.x = this.array(widest);
    this.y = this.array(widest);
  }

  array(size) {
    const from = this.taken;
    this.taken += Math.ceil(size / ALIGNED) * ALIGNED;
    return new Float32Array(this.buffer, 4 * from, size);
  }

  product(a, b, M, N, K, c, transposed = false) {
    // c = a b, for a (M, K), or (K, M) if it is to be transposed; b (K, N), c (M, N). M must be a
    // multiple of 4, N one of 8.
    const [row, column] = transposed ? [4, 4 * M] : [4 * K, 4];
    c.fill(0);
    for (let k = 0; k < K; k += TERMS_AT_ONCE) {
      const [from_a, from_b] = [a.byteOffset + k * column, b.byteOffset + 4 * k * N];
      const terms = Math.min(TERMS_AT_ONCE, K - k);
      this.kernels.add_product(from_a, row, column, from_b, c.byteOffset, M, N, terms);
    }
  }

  multiply(matrix, rows, columns, x, from, y, to) {
    // y = matrix x, for the vectors at x[from] and y[to], which may be outside of this memory.
    this.x.set(x.subarray(from, from + columns));
    const { byteOffset } = matrix;
    this.kernels.multiply(byteOffset, rows, columns, this.x.byteOffset, this.y.byteOffset);
    y.set(this.y.subarray(0, rows), to);
  }
}

function kernels_in_javascript(buffer) {
  // The two functions of kernels.wat; see there.
  const at = new Float32Array(buffer);
  return {
    add_product(a, row, column, b, c, M, N, K) {
      [a, row, column, b, c] = [a, row, column, b, c].map((bytes) => bytes / 4);
      for (let i = 0; i < M; i++) {
        for (let k = 0; k < K; k++) {
          const entry = at[a + i * row + k * column];
          for (let j = 0; j < N; j++) at[c + i * N + j] += entry * at[b + k * N + j];
        }
      }
    },
    multiply(matrix, rows, columns, x, y) {
      [matrix, x, y] = [matrix, x, y].map((bytes) => bytes / 4);
      multiply(at, matrix, columns, rows, columns, at, x, at, y); // network.js
    },
  };
}
