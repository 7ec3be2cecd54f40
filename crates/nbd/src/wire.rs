//! Numbers of the NBD protocol (`doc/proto.md` of the NBD project) and the limits that we put on a server's answers.

pub const MAGIC_SERVER: u64 = 0x4e42_444d_4147_4943;
pub const MAGIC_OPTION: u64 = 0x4948_4156_454f_5054;
pub const MAGIC_OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
pub const MAGIC_REQUEST: u32 = 0x2560_9513;
pub const MAGIC_SIMPLE_REPLY: u32 = 0x6744_6698;
pub const MAGIC_STRUCTURED_REPLY: u32 = 0x668e_33ef;

pub const HANDSHAKE_FIXED_NEWSTYLE: u16 = 1;
pub const HANDSHAKE_NO_ZEROES: u16 = 2;

pub const OPT_GO: u32 = 7;
pub const OPT_STRUCTURED_REPLY: u32 = 8;
pub const OPT_SET_META_CONTEXT: u32 = 10;

pub const REP_ACK: u32 = 1;
pub const REP_INFO: u32 = 3;
pub const REP_META_CONTEXT: u32 = 4;
pub const REP_ERROR_BIT: u32 = 1 << 31;
pub const INFO_EXPORT: u16 = 0;

pub const CMD_READ: u16 = 0;
pub const CMD_DISCONNECT: u16 = 2;
pub const CMD_BLOCK_STATUS: u16 = 7;

pub const CHUNK_FLAG_DONE: u16 = 1;
pub const CHUNK_NONE: u16 = 0;
pub const CHUNK_OFFSET_DATA: u16 = 1;
pub const CHUNK_OFFSET_HOLE: u16 = 2;
pub const CHUNK_BLOCK_STATUS: u16 = 5;
pub const CHUNK_ERROR_BIT: u16 = 1 << 15;

/// `base:allocation`: nothing is stored here.
pub const STATE_HOLE: u32 = 1;
/// `base:allocation`: reads as zeros.
pub const STATE_ZERO: u32 = 2;
/// `qemu:dirty-bitmap:…`: written since the bitmap was made.
pub const STATE_DIRTY: u32 = 1;

/// Longest read in bytes. QEMU refuses longer ones.
pub const MAX_READ: u32 = 32 << 20;
/// Longest body of one option reply in bytes.
pub const MAX_OPTION_REPLY: u32 = 64 << 10;
/// Replies to one option. A server answers `GO` with a handful and `SET_META_CONTEXT` with one per context.
pub const MAX_OPTION_REPLIES: usize = 256;
/// Descriptors in one block status chunk. QEMU sends at most 131,072 of them.
pub const MAX_DESCRIPTORS: u32 = 256 << 10;
/// Longest body of an error chunk: error, length, text of at most 4 KiB, offset.
pub const MAX_ERROR_CHUNK: u32 = 4 + 2 + 4096 + 8;
/// Requests in flight on one connection; further callers wait.
pub const MAX_IN_FLIGHT: usize = 128;
