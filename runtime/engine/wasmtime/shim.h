//go:build wasmtime && cgo

// What of wasmtime's C interface (44.0.0) is used, declared here because cgo cannot be told where another module keeps its
// headers. With RIPSTOP_REAL_HEADERS the declarations stand beside the real ones, and the C compiler compares them: a test does that.
#ifndef RIPSTOP_WASMTIME_SHIM_H
#define RIPSTOP_WASMTIME_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef RIPSTOP_REAL_HEADERS
#include <wasmtime.h>
#else
typedef struct wasm_config_t wasm_config_t;
typedef struct wasm_engine_t wasm_engine_t;
typedef struct wasm_valtype_t wasm_valtype_t;
typedef struct wasm_functype_t wasm_functype_t;
typedef struct wasm_memorytype_t wasm_memorytype_t;
typedef struct wasm_frame_t wasm_frame_t;
typedef struct wasm_trap_t wasm_trap_t;
typedef struct wasmtime_error wasmtime_error_t;
typedef struct wasmtime_store wasmtime_store_t;
typedef struct wasmtime_context wasmtime_context_t;
typedef struct wasmtime_module wasmtime_module_t;
typedef struct wasmtime_linker wasmtime_linker_t;
typedef struct wasmtime_instance_pre wasmtime_instance_pre_t;
typedef struct wasmtime_caller wasmtime_caller_t;

typedef char wasm_byte_t;
typedef uint8_t wasm_valkind_t;
typedef uint8_t wasmtime_trap_code_t;
typedef uint8_t wasmtime_update_deadline_kind_t;
typedef struct wasm_byte_vec_t { size_t size; wasm_byte_t *data; } wasm_byte_vec_t;
typedef wasm_byte_vec_t wasm_name_t;
typedef wasm_name_t wasm_message_t;
typedef struct wasm_valtype_vec_t { size_t size; wasm_valtype_t **data; } wasm_valtype_vec_t;
typedef struct wasm_frame_vec_t { size_t size; wasm_frame_t **data; } wasm_frame_vec_t;

typedef struct wasmtime_func { uint64_t store_id; void *own; } wasmtime_func_t;
typedef struct wasmtime_memory { struct { uint64_t store_id; uint32_t own1; }; uint32_t own2; } wasmtime_memory_t;
typedef struct wasmtime_global { uint64_t store_id; uint32_t own1, own2, own3; } wasmtime_global_t;
typedef struct wasmtime_instance { uint64_t store_id; size_t own; } wasmtime_instance_t;
typedef union wasmtime_extern_union { wasmtime_func_t func; wasmtime_global_t global; wasmtime_memory_t memory; } wasmtime_extern_union_t;
typedef struct wasmtime_extern { uint8_t kind; wasmtime_extern_union_t of; } wasmtime_extern_t;
typedef union wasmtime_val_raw { int32_t i32; int64_t i64; uint8_t v128[16]; void *funcref; } wasmtime_val_raw_t;
typedef union wasmtime_valunion { int32_t i32; int64_t i64; uint8_t v128[16]; struct { uint64_t store_id; uint32_t own1, own2; void *own3; } anyref; } wasmtime_valunion_t;
typedef struct wasmtime_val { uint8_t kind; wasmtime_valunion_t of; } wasmtime_val_t;

typedef struct wasmtime_linear_memory {
  void *env;
  uint8_t *(*get_memory)(void *env, size_t *byte_size, size_t *byte_capacity);
  wasmtime_error_t *(*grow_memory)(void *env, size_t new_size);
  void (*finalizer)(void *);
} wasmtime_linear_memory_t;
typedef struct wasmtime_memory_creator {
  void *env;
  wasmtime_error_t *(*new_memory)(void *env, const wasm_memorytype_t *ty, size_t minimum, size_t maximum,
                                  size_t reserved_size_in_bytes, size_t guard_size_in_bytes, wasmtime_linear_memory_t *memory_ret);
  void (*finalizer)(void *);
} wasmtime_memory_creator_t;
#endif

wasm_config_t *wasm_config_new(void);
void wasmtime_config_epoch_interruption_set(wasm_config_t *, bool);
void wasmtime_config_max_wasm_stack_set(wasm_config_t *, size_t);
void wasmtime_config_async_stack_size_set(wasm_config_t *, uint64_t);
void wasmtime_config_memory_init_cow_set(wasm_config_t *, bool);
void wasmtime_config_memory_reservation_set(wasm_config_t *, uint64_t);
void wasmtime_config_memory_guard_size_set(wasm_config_t *, uint64_t);
void wasmtime_config_memory_may_move_set(wasm_config_t *, bool);
void wasmtime_config_native_unwind_info_set(wasm_config_t *, bool);
void wasmtime_config_parallel_compilation_set(wasm_config_t *, bool);
void wasmtime_config_host_memory_creator_set(wasm_config_t *, wasmtime_memory_creator_t *);
void wasmtime_config_wasm_threads_set(wasm_config_t *, bool);
void wasmtime_config_wasm_tail_call_set(wasm_config_t *, bool);
void wasmtime_config_wasm_function_references_set(wasm_config_t *, bool);
void wasmtime_config_wasm_gc_set(wasm_config_t *, bool);
void wasmtime_config_wasm_relaxed_simd_set(wasm_config_t *, bool);
void wasmtime_config_wasm_multi_memory_set(wasm_config_t *, bool);
void wasmtime_config_wasm_memory64_set(wasm_config_t *, bool);
void wasmtime_config_wasm_exceptions_set(wasm_config_t *, bool);

wasm_engine_t *wasm_engine_new_with_config(wasm_config_t *);
void wasm_engine_delete(wasm_engine_t *);
void wasmtime_engine_increment_epoch(wasm_engine_t *);

wasm_valtype_t *wasm_valtype_new(wasm_valkind_t);
void wasm_valtype_vec_new_uninitialized(wasm_valtype_vec_t *, size_t);
wasm_functype_t *wasm_functype_new(wasm_valtype_vec_t *params, wasm_valtype_vec_t *results);
void wasm_functype_delete(wasm_functype_t *);

wasmtime_linker_t *wasmtime_linker_new(wasm_engine_t *);
void wasmtime_linker_delete(wasmtime_linker_t *);
wasmtime_error_t *wasmtime_linker_define_func_unchecked(
    wasmtime_linker_t *, const char *module, size_t module_len, const char *name, size_t name_len, const wasm_functype_t *,
    wasm_trap_t *(*cb)(void *env, wasmtime_caller_t *, wasmtime_val_raw_t *, size_t), void *data, void (*finalizer)(void *));
wasmtime_error_t *wasmtime_linker_instantiate_pre(const wasmtime_linker_t *, const wasmtime_module_t *, wasmtime_instance_pre_t **);
void wasmtime_instance_pre_delete(wasmtime_instance_pre_t *);
wasmtime_error_t *wasmtime_instance_pre_instantiate(const wasmtime_instance_pre_t *, wasmtime_context_t *, wasmtime_instance_t *, wasm_trap_t **);

wasmtime_error_t *wasmtime_module_new(wasm_engine_t *, const uint8_t *wasm, size_t wasm_len, wasmtime_module_t **);
wasmtime_error_t *wasmtime_module_serialize(wasmtime_module_t *, wasm_byte_vec_t *);
wasmtime_error_t *wasmtime_module_deserialize(wasm_engine_t *, const uint8_t *bytes, size_t bytes_len, wasmtime_module_t **);
void wasmtime_module_delete(wasmtime_module_t *);

wasmtime_store_t *wasmtime_store_new(wasm_engine_t *, void *data, void (*finalizer)(void *));
wasmtime_context_t *wasmtime_store_context(wasmtime_store_t *);
void wasmtime_store_delete(wasmtime_store_t *);
void *wasmtime_context_get_data(const wasmtime_context_t *);
void wasmtime_context_set_epoch_deadline(wasmtime_context_t *, uint64_t ticks_beyond_current);
void wasmtime_store_epoch_deadline_callback(
    wasmtime_store_t *, wasmtime_error_t *(*func)(wasmtime_context_t *, void *data, uint64_t *delta, wasmtime_update_deadline_kind_t *),
    void *data, void (*finalizer)(void *));
wasmtime_context_t *wasmtime_caller_context(wasmtime_caller_t *);

bool wasmtime_instance_export_get(wasmtime_context_t *, const wasmtime_instance_t *, const char *name, size_t name_len, wasmtime_extern_t *);
wasmtime_error_t *wasmtime_func_call_unchecked(wasmtime_context_t *, const wasmtime_func_t *, wasmtime_val_raw_t *, size_t, wasm_trap_t **);
wasmtime_error_t *wasmtime_memory_grow(wasmtime_context_t *, const wasmtime_memory_t *, uint64_t delta, uint64_t *prev_size);
void wasmtime_global_get(wasmtime_context_t *, const wasmtime_global_t *, wasmtime_val_t *);
wasmtime_error_t *wasmtime_global_set(wasmtime_context_t *, const wasmtime_global_t *, const wasmtime_val_t *);

wasmtime_error_t *wasmtime_error_new(const char *);
void wasmtime_error_delete(wasmtime_error_t *);
void wasmtime_error_message(const wasmtime_error_t *, wasm_name_t *message);
void wasmtime_error_wasm_trace(const wasmtime_error_t *, wasm_frame_vec_t *);
wasm_trap_t *wasmtime_trap_new(const char *msg, size_t msg_len);
bool wasmtime_trap_code(const wasm_trap_t *, wasmtime_trap_code_t *);
void wasm_trap_delete(wasm_trap_t *);
void wasm_trap_message(const wasm_trap_t *, wasm_message_t *);
void wasm_trap_trace(const wasm_trap_t *, wasm_frame_vec_t *);
void wasm_byte_vec_delete(wasm_byte_vec_t *);
void wasm_frame_vec_delete(wasm_frame_vec_t *);
uint32_t wasm_frame_func_index(const wasm_frame_t *);
const wasm_name_t *wasmtime_frame_func_name(const wasm_frame_t *);

// rs_instance is a store with one instance. Go owns it and frees it with rs_instance_free.
typedef struct rs_instance {
  uintptr_t handle; // its Go side
  int32_t stop;     // not 0: the guest ends when the epoch has moved on
  bool epochs;      // the code looks at the epoch
  uint8_t *base;    // its linear memory
  size_t size;      // of it, in bytes
  wasmtime_store_t *store;
  wasmtime_context_t *context;
  wasmtime_instance_t instance;
} rs_instance;

// rs_failure is how a call ended. Only a trap of the guest's has a code. Go frees what it points at with rs_failure_free.
typedef struct rs_failure {
  bool failed, interrupted;
  int code; // -1 for none
  wasmtime_error_t *error;
  wasm_trap_t *trap;
} rs_failure;

enum { RS_FRAMES = 30, RS_TEXT = 300 };

// rs_report is a failure for people: a message and the innermost frames, cut to RS_TEXT bytes each.
typedef struct rs_report {
  char message[RS_TEXT + 1];
  int frames;
  uint32_t index[RS_FRAMES];
  char named[RS_FRAMES]; // whether name holds a name
  char name[RS_FRAMES][RS_TEXT + 1];
} rs_report;

wasm_engine_t *rs_engine_new(bool epochs);
wasmtime_error_t *rs_define(wasmtime_linker_t *, const char *module, size_t module_len, const char *name, size_t name_len,
                            const uint8_t *params, size_t nparams, const uint8_t *results, size_t nresults, int number);
rs_instance *rs_instance_new(wasm_engine_t *, uintptr_t handle, bool epochs);
void rs_instance_free(rs_instance *);
rs_failure rs_instantiate(rs_instance *, const wasmtime_instance_pre_t *);
rs_failure rs_call(rs_instance *, const wasmtime_func_t *, uint64_t *stack, size_t nparams, size_t nresults, const uint8_t *words);
void rs_stop(rs_instance *, wasm_engine_t *);
void rs_proceed(rs_instance *);
bool rs_function(rs_instance *, const char *name, size_t len, wasmtime_func_t *);
bool rs_global(rs_instance *, const char *name, size_t len, wasmtime_global_t *);
uint64_t rs_global_get(rs_instance *, const wasmtime_global_t *);
void rs_global_set(rs_instance *, const wasmtime_global_t *, wasm_valkind_t kind, uint64_t bits);
bool rs_refresh_memory(rs_instance *, const char *name, size_t len);
void rs_failure_report(const rs_failure *, rs_report *);
void rs_failure_free(rs_failure *);

#endif
