# y = round(x w' / 2^7), saturated to int8: 128 x 64 by 64 x 8, in two blocks of 64 rows.
# Every engine runs through its own loop. `signal` lets an engine go on, `wait` takes such a token:
# the product of a block waits for its rows, the shifters for its sums, the store for its results.
.arch p2vit
.dram 0x3000                          # bytes
.macs 65536                           # of the problem: what utilisation is measured by
.input "x" 0x0 i8 128x64 frac=4       # name, address in DRAM, type, shape, fractional bits
.input "w" 0x2000 i8 8x64 frac=7
.output "y" 0x2200 i8 128x8 frac=4

ld.copy dst=bbuf[0x0] src=dram[0x2000] run=512
ld.step areg=1 depth=0 step=4096
ld.loop count=2
  ld.copy dst=abuf[a1+0x0] src=dram[a1+0x0] run=4096 signal=mac
ld.end

mac.step areg=1 depth=0 step=4096
mac.step areg=2 depth=0 step=2048
mac.loop count=2
  mac.matmul acc=obuf[a2+0x0] a=abuf[a1+0x0] b=bbuf[0x0] m=64 n=8 k=64 acc_row=32 a_row=64 b_row=64 map=mn wait=ld signal=shift
mac.end

shift.step areg=1 depth=0 step=2048
shift.step areg=2 depth=0 step=512
shift.loop count=2
  shift.requant rows=64 cols=8 dst=cbuf[a2+0x0] src=obuf[a1+0x0] dst_row=8 src_row=32 src_type=i32 dst_type=i8 shift=7 wait=mac signal=st
shift.end

st.step areg=1 depth=0 step=512
st.loop count=2
  st.copy dst=dram[a1+0x2200] src=cbuf[a1+0x0] run=512 wait=shift
st.end
