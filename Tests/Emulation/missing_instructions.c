// Instructions that the CPU (or the emulator around it) lacks, carried out in software when they trap: {vex} vpdpbusd and vpdpwssd (AVX-VNNI),
// vdpbf16ps (AVX512_BF16). To be loaded before a test program with LD_PRELOAD; `run` beside this file builds and uses it.
// Encodings and meaning: Intel SDM, volume 2, chapters 2.3 (VEX), 2.7 (EVEX) and the pages of the three instructions; register state as in an
// XSAVE area of the standard format, volume 1, chapter 13.4.
#define _GNU_SOURCE
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

// Offsets and bits of the XSAVE area.
enum { XMM = 160, XSTATE_BV = 512, YMM_HIGH = 576, ZMM_HIGH = 1152, ZMM16 = 1664, AVX = 1 << 2, ZMM_HIGH256 = 1 << 6, HI16_ZMM = 1 << 7 };
enum { OP_DPBUSD = 0x50, OP_DPWSSD_OR_BF16 = 0x52, VEX3 = 0xC4, EVEX = 0x62 };

typedef struct instruction {
  bool evex, broadcast;
  uint8_t opcode, prefix;  // prefix: 1 for 66, 2 for F3
  int bytes;               // of a vector
  int destination, first;  // vector registers
  int second;              // vector register; -1: memory at `address`
  const uint8_t *address, *next;
} instruction;

typedef struct vector {
  uint8_t bytes[64];
} vector;

static const int GENERAL[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

/// Where 16 or 32 bytes of a register lie: part 0 bytes 0-15, part 1 bytes 16-31, part 2 bytes 32-63. Registers 16-31 lie in one piece.
static uint8_t *register_part(uint8_t *area, int n, int part) {
  if (n >= 16) return area + ZMM16 + 64 * (n - 16) + 16 * part;
  return part == 0 ? area + XMM + 16 * n : part == 1 ? area + YMM_HIGH + 16 * n : area + ZMM_HIGH + 32 * n;
}

static bool is_initial(const uint8_t *area, int n, int part) {
  uint64_t present;
  memcpy(&present, area + XSTATE_BV, sizeof present);
  return n >= 16 ? !(present & HI16_ZMM) : part == 0 ? !(present & 2) : part == 1 ? !(present & AVX) : !(present & ZMM_HIGH256);
}

static vector read_register(uint8_t *area, int n, int bytes) {
  vector v = {{0}};
  for (int part = 0, at = 0; at < bytes; at += part++ < 2 ? 16 : 32)
    if (!is_initial(area, n, part)) memcpy(v.bytes + at, register_part(area, n, part), part < 2 ? 16 : 32);
  return v;
}

/// Bytes beyond the vector become zero, as with every VEX and EVEX instruction. State that was in its initial form is written out first.
static void write_register(uint8_t *area, int n, const vector *v, bool evex) {
  uint64_t present;
  memcpy(&present, area + XSTATE_BV, sizeof present);
  const struct { uint64_t bit; int offset, size; } states[] = {{2, XMM, 256}, {AVX, YMM_HIGH, 256}, {ZMM_HIGH256, ZMM_HIGH, 512}, {HI16_ZMM, ZMM16, 1024}};
  for (int i = 0; i < (evex ? 4 : 2); i++)
    if (!(present & states[i].bit)) memset(area + states[i].offset, 0, (size_t)states[i].size);
  present |= evex ? 2 | AVX | ZMM_HIGH256 | HI16_ZMM : 2 | AVX;
  memcpy(area + XSTATE_BV, &present, sizeof present);
  if (!evex && n < 16 && (present & ZMM_HIGH256)) memset(register_part(area, n, 2), 0, 32);
  for (int part = 0; part < (evex ? 3 : 2); part++) memcpy(register_part(area, n, part), v->bytes + 16 * part, part < 2 ? 16 : 32);
}

static int32_t read32(const uint8_t *p) {
  int32_t v;
  memcpy(&v, p, sizeof v);
  return v;
}

/// The operand behind the opcode: ModRM, SIB and displacement. `x`, `b`: the prefix's bits, as 0 or 1.
static void read_operand(instruction *in, const uint8_t *p, const greg_t *registers, int x, int b) {
  const int mod = *p >> 6, rm = *p & 7;
  p++;
  if (mod == 3) {
    in->second = rm | b << 3 | (in->evex ? x << 4 : 0);
    in->next = p;
    return;
  }
  in->second = -1;
  int64_t address = 0;
  bool relative = false, base_is_displacement = false;
  if (rm == 4) {
    const int scale = *p >> 6, index = (*p >> 3 & 7) | x << 3, base = *p & 7;
    p++;
    if (index != 4) address += registers[GENERAL[index]] << scale;
    base_is_displacement = mod == 0 && base == 5;
    if (!base_is_displacement) address += registers[GENERAL[base | b << 3]];
  } else if (mod == 0 && rm == 5) {
    relative = base_is_displacement = true;
  } else {
    address += registers[GENERAL[rm | b << 3]];
  }
  const int unit = !in->evex ? 1 : in->broadcast ? 4 : in->bytes;  // EVEX: a displacement of 8 bits counts operands
  if (mod == 1) {
    address += (int8_t)*p++ * unit;
  } else if (mod == 2 || base_is_displacement) {
    address += read32(p);
    p += 4;
  }
  in->next = p;
  in->address = (const uint8_t *)(address + (relative ? (int64_t)p : 0));
}

/// False: not one of the three.
static bool decode(instruction *in, const uint8_t *p, const greg_t *registers) {
  in->evex = *p == EVEX;
  if (*p != EVEX && *p != VEX3) return false;
  const int r = !(p[1] & 0x80), x = !(p[1] & 0x40), b = !(p[1] & 0x20), high = in->evex && !(p[1] & 0x10);
  const int map = p[1] & (in->evex ? 7 : 31), wide = p[2] >> 7;
  int first = ~(p[2] >> 3) & 15;
  in->prefix = p[2] & 3;
  in->broadcast = false;
  in->bytes = p[2] & 4 && !in->evex ? 32 : 16;
  if (in->evex) {
    if ((p[3] & 7) || (p[3] & 0x80)) return false;  // masks: not used by these kernels
    in->bytes = 16 << (p[3] >> 5 & 3);
    in->broadcast = p[3] & 0x10;
    first |= p[3] & 8 ? 0 : 16;
  }
  const uint8_t *opcode = p + (in->evex ? 4 : 3);
  in->opcode = *opcode;
  if (map != 2 || wide || in->bytes > 64) return false;
  const bool known = in->evex ? in->opcode == OP_DPWSSD_OR_BF16 && in->prefix == 2
                              : (in->opcode == OP_DPBUSD || in->opcode == OP_DPWSSD_OR_BF16) && in->prefix == 1;
  if (!known) return false;
  in->destination = (opcode[1] >> 3 & 7) | r << 3 | high << 4;
  in->first = first;
  read_operand(in, opcode + 1, registers, x, b);
  return true;
}

static float bf16(const uint8_t *p) {
  const uint32_t bits = (uint32_t)p[1] << 24 | (uint32_t)p[0] << 16;
  float f;
  memcpy(&f, &bits, sizeof f);
  return bits & 0x7F800000 ? f : 0;  // subnormal numbers count as zero
}

/// Of the CPU's way only the flush of subnormal sums to zero is missing.
static float sum_bf16(float sum, const uint8_t *a, const uint8_t *b) {
  volatile float high = sum + bf16(a + 2) * bf16(b + 2);  // products of two bf16 are exact: fused or not is the same
  return high + bf16(a) * bf16(b);
}

static int32_t sum_integers(int32_t sum, uint8_t opcode, const uint8_t *a, const uint8_t *b) {
  uint32_t s = (uint32_t)sum;
  int16_t p[2], q[2];
  memcpy(p, a, 4);
  memcpy(q, b, 4);
  if (opcode == OP_DPBUSD)
    for (int i = 0; i < 4; i++) s += (uint32_t)(a[i] * (int8_t)b[i]);
  else
    for (int i = 0; i < 2; i++) s += (uint32_t)(p[i] * q[i]);
  return (int32_t)s;
}

static void carry_out(const instruction *in, uint8_t *area) {
  vector sum = read_register(area, in->destination, in->bytes), second = {{0}};
  const vector first = read_register(area, in->first, in->bytes);
  if (in->second >= 0) second = read_register(area, in->second, in->bytes);
  else
    for (int at = 0; at < in->bytes; at += 4) memcpy(second.bytes + at, in->address + (in->broadcast ? 0 : at), 4);
  for (int at = 0; at < in->bytes; at += 4) {
    const uint8_t *a = first.bytes + at, *b = second.bytes + at;
    if (in->evex) {
      float f;
      memcpy(&f, sum.bytes + at, 4);
      f = sum_bf16(f, a, b);
      memcpy(sum.bytes + at, &f, 4);
    } else {
      const int32_t s = sum_integers(read32(sum.bytes + at), in->opcode, a, b);
      memcpy(sum.bytes + at, &s, 4);
    }
  }
  write_register(area, in->destination, &sum, in->evex);
}

static void on_illegal_instruction(int signal_number, siginfo_t *information, void *context) {
  ucontext_t *c = context;
  greg_t *registers = c->uc_mcontext.gregs;
  instruction in;
  if (!decode(&in, (const uint8_t *)registers[REG_RIP], registers)) {
    signal(SIGILL, SIG_DFL);  // the instruction runs again and ends the process
    return;
  }
  carry_out(&in, (uint8_t *)c->uc_mcontext.fpregs);
  registers[REG_RIP] = (greg_t)in.next;
  (void)signal_number, (void)information;
}

__attribute__((constructor)) static void install(void) {
  struct sigaction action = {.sa_sigaction = on_illegal_instruction, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_RESTART};
  if (sigaction(SIGILL, &action, NULL)) {
    perror("missing_instructions: sigaction");
    exit(1);
  }
}
