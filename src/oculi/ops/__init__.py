"""Operations on tensors that more than one system uses: floor 0."""
