//go:build wasmtime && cgo

#include "shim.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(sizeof(wasmtime_func_t) == 16 && sizeof(wasmtime_memory_t) == 24 && sizeof(wasmtime_global_t) == 24, "layout");
_Static_assert(sizeof(wasmtime_instance_t) == 16 && sizeof(wasmtime_extern_t) == 32 && offsetof(wasmtime_extern_t, of) == 8, "layout");
_Static_assert(sizeof(wasmtime_val_raw_t) == 16 && sizeof(wasmtime_val_t) == 32 && offsetof(wasmtime_val_t, of) == 8, "layout");
_Static_assert(sizeof(wasmtime_linear_memory_t) == 32 && sizeof(wasmtime_memory_creator_t) == 24, "layout");
_Static_assert(sizeof(wasm_byte_vec_t) == 16 && sizeof(wasm_valtype_vec_t) == 16 && sizeof(wasm_frame_vec_t) == 16, "layout");

enum { EXTERN_FUNC = 0, EXTERN_GLOBAL = 1, EXTERN_MEMORY = 3 };

// The Go side. Each answers 0 when the guest may go on.
extern int ripstopHostCall(uintptr_t handle, int number, uint64_t *stack, int len);
extern int ripstopNewMemory(uintptr_t handle, rs_instance *, uint64_t minimum);
extern int ripstopGrowMemory(uintptr_t handle, rs_instance *, uint64_t size);

// The instance that this thread is making; the creator of its memory has no other way to know.
static __thread rs_instance *making;

static uint8_t nothing[1]; // where a memory without bytes is

static uint8_t *get_memory(void *env, size_t *size, size_t *capacity) {
  rs_instance *s = env;
  *size = *capacity = s->size;
  return s->base ? s->base : nothing;
}

static wasmtime_error_t *grow_memory(void *env, size_t size) {
  rs_instance *s = env;
  return ripstopGrowMemory(s->handle, s, size) == 0 ? NULL : wasmtime_error_new("no more memory");
}

static wasmtime_error_t *new_memory(void *env, const wasm_memorytype_t *type, size_t minimum, size_t maximum, size_t reserved,
                                    size_t guard, wasmtime_linear_memory_t *out) {
  rs_instance *s = making;
  if (s == NULL || ripstopNewMemory(s->handle, s, minimum) != 0) return wasmtime_error_new("no memory");
  *out = (wasmtime_linear_memory_t){.env = s, .get_memory = get_memory, .grow_memory = grow_memory};
  return NULL;
}

wasm_engine_t *rs_engine_new(bool epochs) {
  size_t stack = 0;
  pthread_attr_t attr;
  if (pthread_attr_init(&attr) == 0) {
    pthread_attr_getstacksize(&attr, &stack);
    pthread_attr_destroy(&attr);
  }
  if (stack < 1 << 20) stack = 1 << 20;
  if (stack > 64 << 20) stack = 64 << 20;
  wasm_config_t *c = wasm_config_new();
  wasmtime_config_epoch_interruption_set(c, epochs);
  wasmtime_config_max_wasm_stack_set(c, stack / 2); // host calls and signals need the rest
  wasmtime_config_async_stack_size_set(c, stack);   // unused, but may not be less
  wasmtime_config_memory_init_cow_set(c, false);    // memory is ours
  wasmtime_config_memory_reservation_set(c, 0);
  wasmtime_config_memory_guard_size_set(c, 0);
  wasmtime_config_memory_may_move_set(c, true);
  wasmtime_config_native_unwind_info_set(c, false);
  wasmtime_config_parallel_compilation_set(c, false); // whoever compiles pays
  wasmtime_memory_creator_t creator = {.new_memory = new_memory};
  wasmtime_config_host_memory_creator_set(c, &creator);
  // WebAssembly 2.0 and no more, as with the other engine.
  wasmtime_config_wasm_threads_set(c, false);
  wasmtime_config_wasm_tail_call_set(c, false);
  wasmtime_config_wasm_gc_set(c, false);
  wasmtime_config_wasm_function_references_set(c, false);
  wasmtime_config_wasm_relaxed_simd_set(c, false);
  wasmtime_config_wasm_multi_memory_set(c, false);
  wasmtime_config_wasm_memory64_set(c, false);
  wasmtime_config_wasm_exceptions_set(c, false);
  return wasm_engine_new_with_config(c);
}

enum { MAX_HOST_VALUES = 32 };

static wasm_trap_t *host_call(void *env, wasmtime_caller_t *caller, wasmtime_val_raw_t *raw, size_t n) {
  rs_instance *s = wasmtime_context_get_data(wasmtime_caller_context(caller));
  uint64_t stack[MAX_HOST_VALUES];
  for (size_t i = 0; i < n; i++) stack[i] = (uint64_t)raw[i].i64;
  if (ripstopHostCall(s->handle, (int)(intptr_t)env, stack, (int)n) != 0) return wasmtime_trap_new("ended by the host", 17);
  for (size_t i = 0; i < n; i++) raw[i].i64 = (int64_t)stack[i];
  return NULL;
}

static void types(wasm_valtype_vec_t *out, const uint8_t *kinds, size_t n) {
  wasm_valtype_vec_new_uninitialized(out, n);
  for (size_t i = 0; i < n; i++) out->data[i] = wasm_valtype_new(kinds[i]);
}

wasmtime_error_t *rs_define(wasmtime_linker_t *linker, const char *module, size_t module_len, const char *name, size_t name_len,
                            const uint8_t *params, size_t nparams, const uint8_t *results, size_t nresults, int number) {
  if (nparams > MAX_HOST_VALUES || nresults > MAX_HOST_VALUES) return wasmtime_error_new("too many values");
  wasm_valtype_vec_t in, out;
  types(&in, params, nparams);
  types(&out, results, nresults);
  wasm_functype_t *type = wasm_functype_new(&in, &out);
  wasmtime_error_t *err = wasmtime_linker_define_func_unchecked(linker, module, module_len, name, name_len, type, host_call,
                                                                (void *)(intptr_t)number, NULL);
  wasm_functype_delete(type);
  return err;
}

static wasmtime_error_t *epoch_over(wasmtime_context_t *context, void *data, uint64_t *delta, wasmtime_update_deadline_kind_t *kind) {
  rs_instance *s = data;
  if (__atomic_load_n(&s->stop, __ATOMIC_SEQ_CST)) return wasmtime_error_new("interrupted");
  *delta = 1; // the epoch moved on for somebody else
  *kind = 0;
  return NULL;
}

rs_instance *rs_instance_new(wasm_engine_t *engine, uintptr_t handle, bool epochs) {
  rs_instance *s = calloc(1, sizeof *s);
  if (s == NULL) return NULL;
  s->handle = handle;
  s->epochs = epochs;
  s->store = wasmtime_store_new(engine, s, NULL);
  s->context = wasmtime_store_context(s->store);
  if (epochs) wasmtime_store_epoch_deadline_callback(s->store, epoch_over, s, NULL);
  return s;
}

void rs_instance_free(rs_instance *s) {
  wasmtime_store_delete(s->store);
  free(s);
}

// ready has the guest end at the next move of the epoch, and is false if it has to end before it begins: whoever sets stop
// moves the epoch afterwards, so one of the two is seen.
static bool ready(rs_instance *s) {
  if (!s->epochs) return true;
  wasmtime_context_set_epoch_deadline(s->context, 1);
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  if (!__atomic_load_n(&s->stop, __ATOMIC_SEQ_CST)) return true;
  wasmtime_context_set_epoch_deadline(s->context, 0); // for the calls around this one
  return false;
}

static rs_failure outcome(rs_instance *s, wasmtime_error_t *error, wasm_trap_t *trap) {
  rs_failure f = {.failed = error || trap, .code = -1, .error = error, .trap = trap};
  if (f.failed) f.interrupted = __atomic_load_n(&s->stop, __ATOMIC_SEQ_CST) != 0;
  wasmtime_trap_code_t code;
  if (trap && wasmtime_trap_code(trap, &code)) f.code = code;
  return f;
}

static const rs_failure not_begun = {.failed = true, .interrupted = true, .code = -1};

rs_failure rs_instantiate(rs_instance *s, const wasmtime_instance_pre_t *pre) {
  if (!ready(s)) return not_begun;
  wasm_trap_t *trap = NULL;
  rs_instance *outer = making;
  making = s;
  wasmtime_error_t *error = wasmtime_instance_pre_instantiate(pre, s->context, &s->instance, &trap);
  making = outer;
  return outcome(s, error, trap);
}

// words holds the size of each parameter, and then of each result. On stack a value takes whole elements, and what it leaves of one
// is zero.
rs_failure rs_call(rs_instance *s, const wasmtime_func_t *f, uint64_t *stack, size_t nparams, size_t nresults, const uint8_t *words) {
  if (!ready(s)) return not_begun;
  size_t n = nparams > nresults ? nparams : nresults;
  wasmtime_val_raw_t raw[n ? n : 1]; // wasmtime allows 1,000
  memset(raw, 0, n * sizeof *raw);
  uint64_t *at = stack;
  for (size_t i = 0; i < nparams; i++) {
    memcpy(&raw[i], at, 4 * words[i]);
    at += (words[i] + 1) / 2;
  }
  wasm_trap_t *trap = NULL;
  wasmtime_error_t *error = wasmtime_func_call_unchecked(s->context, f, raw, n, &trap);
  if (error || trap) return outcome(s, error, trap);
  at = stack;
  for (size_t i = nparams; i < nparams + nresults; i++) {
    if (words[i] == 1) *at = 0;
    memcpy(at, &raw[i - nparams], 4 * words[i]);
    at += (words[i] + 1) / 2;
  }
  return (rs_failure){.code = -1};
}

void rs_stop(rs_instance *s, wasm_engine_t *engine) {
  __atomic_store_n(&s->stop, 1, __ATOMIC_SEQ_CST);
  wasmtime_engine_increment_epoch(engine);
}

void rs_proceed(rs_instance *s) { __atomic_store_n(&s->stop, 0, __ATOMIC_SEQ_CST); }

static bool find(rs_instance *s, const char *name, size_t len, uint8_t kind, wasmtime_extern_t *e) {
  return wasmtime_instance_export_get(s->context, &s->instance, name, len, e) && e->kind == kind;
}

bool rs_function(rs_instance *s, const char *name, size_t len, wasmtime_func_t *out) {
  wasmtime_extern_t e;
  if (!find(s, name, len, EXTERN_FUNC, &e)) return false;
  *out = e.of.func;
  return true;
}

bool rs_global(rs_instance *s, const char *name, size_t len, wasmtime_global_t *out) {
  wasmtime_extern_t e;
  if (!find(s, name, len, EXTERN_GLOBAL, &e)) return false;
  *out = e.of.global;
  return true;
}

uint64_t rs_global_get(rs_instance *s, const wasmtime_global_t *g) {
  wasmtime_val_t v;
  memset(&v, 0, sizeof v);
  wasmtime_global_get(s->context, g, &v);
  return v.kind == 0 || v.kind == 2 ? (uint64_t)(uint32_t)v.of.i32 : (uint64_t)v.of.i64;
}

void rs_global_set(rs_instance *s, const wasmtime_global_t *g, wasm_valkind_t kind, uint64_t bits) {
  wasmtime_val_t v;
  memset(&v, 0, sizeof v);
  v.kind = kind;
  v.of.i64 = (int64_t)bits;
  wasmtime_error_t *err = wasmtime_global_set(s->context, g, &v);
  if (err) wasmtime_error_delete(err); // the kind is the global's, and it is mutable: there is none
}

// wasmtime reads where a memory is after each growth, by nothing too.
bool rs_refresh_memory(rs_instance *s, const char *name, size_t len) {
  wasmtime_extern_t e;
  uint64_t before;
  if (!find(s, name, len, EXTERN_MEMORY, &e)) return false;
  wasmtime_error_t *err = wasmtime_memory_grow(s->context, &e.of.memory, 0, &before);
  if (err) wasmtime_error_delete(err);
  return err == NULL;
}

static void text(char *to, const char *from, size_t n) {
  if (n > RS_TEXT) n = RS_TEXT;
  memcpy(to, from, n);
  to[n] = 0;
}

void rs_failure_report(const rs_failure *f, rs_report *r) {
  memset(r, 0, sizeof *r);
  wasm_message_t message = {0, NULL};
  wasm_frame_vec_t frames = {0, NULL};
  if (f->trap) {
    wasm_trap_message(f->trap, &message);
    wasm_trap_trace(f->trap, &frames);
  } else if (f->error) {
    wasmtime_error_message(f->error, &message);
    wasmtime_error_wasm_trace(f->error, &frames);
  }
  if (message.data) text(r->message, message.data, message.size);
  for (size_t i = 0; i < frames.size && i < RS_FRAMES; i++, r->frames++) {
    r->index[i] = wasm_frame_func_index(frames.data[i]);
    const wasm_name_t *name = wasmtime_frame_func_name(frames.data[i]);
    if (name && name->data) {
      r->named[i] = 1;
      text(r->name[i], name->data, name->size);
    }
  }
  wasm_byte_vec_delete(&message);
  wasm_frame_vec_delete(&frames);
}

void rs_failure_free(rs_failure *f) {
  if (f->error) wasmtime_error_delete(f->error);
  if (f->trap) wasm_trap_delete(f->trap);
}
